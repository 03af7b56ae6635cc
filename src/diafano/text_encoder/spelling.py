"""Token ids -> words that people read, and what is said of words that do not fit."""

import codecs
from collections.abc import Iterable, Sequence

from torch import Tensor

from diafano.text_encoder.tokenizer import Tokenizer, byte_alphabet
from diafano.text_encoder.tokenizer_files import END_OF_WORD

LONGEST_SHOWN = 60
"""Letters of a caption in a note."""
_PRINTABLE = [ord(letter) for letter in byte_alphabet() if ord(letter) < 256]
_BYTES = dict(
    zip(byte_alphabet(), [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)], strict=True)
)
"""The character that stands for a byte -> that byte."""


def cut_note(tokenizer: Tokenizer, text: str) -> str | None:
    """What to tell of a text that has more tokens than fit; None of others."""
    cut, room = tokenizer.tokens_cut(text), tokenizer.length - 2
    if cut == 0:
        return None
    return f"the last {cut} tokens of the prompt are left out, because {room} fit: {tokenizer.text_cut(text)!r}"


def cut_captions_note(tokenizer: Tokenizer, captions: Sequence[str], ids: Tensor) -> str | None:
    """What to tell of captions of which a part is not learnt, as they have more tokens than fit; None where all fit.

    `ids` is what the tokenizer makes of the captions.
    """
    # Only a row that is full can be one that was cut.
    full = ids[:, -1] == tokenizer.end_token
    if tokenizer.pad_token == tokenizer.end_token:
        full &= ids[:, -2] != tokenizer.end_token
    cut = [
        (caption, lost)
        for caption in (captions[place] for place in full.nonzero().flatten().tolist())
        if (lost := tokenizer.text_cut(caption))
    ]
    if not cut:
        return None
    caption, lost = cut[0]
    return (
        f"{len(cut)} of {len(captions)} captions have more than the {tokenizer.length - 2} tokens that are learnt; of"
        f" {_shown(caption)!r} these words are lost: {_shown(lost)!r}"
    )


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def words(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """The words that these ids spell, a "·" between the tokens of one.

    A letter whose bytes are several tokens stands where the last of them does; of an added word (textual inversion) the
    vectors behind the first one are "+".
    """
    found: list[list[str]] = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    goes_on = False
    for token in ids:
        name = tokenizer.name_of(token)
        letters = name
        ends = True
        if token in tokenizer.added.inner:
            goes_on, letters = True, "+"
        elif token in tokenizer.added.spelling or name in tokenizer.special_tokens.values():
            goes_on = False
        elif tokenizer.kind == "word_piece":
            goes_on, letters = name.startswith("##"), name.removeprefix("##")
        elif set(name) <= _BYTES.keys():
            ends = name.endswith(END_OF_WORD)
            letters = decoder.decode(bytes(_BYTES[letter] for letter in name.removesuffix(END_OF_WORD)), ends)
        if goes_on and found:
            found[-1].append(letters)
        else:
            found.append([letters])
        goes_on = not ends
    return ["·".join(filter(None, word)) for word in found]
