"""Text encoder: a prompt -> ids (``tokenizer``) -> one embedding per token (``clip`` or ``bert``)."""

from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer, train_byte_pair

__all__ = ["BERTConfig", "BERTTextEncoder", "CLIPTextConfig", "CLIPTextEncoder", "Tokenizer", "train_byte_pair"]
