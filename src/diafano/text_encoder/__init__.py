"""Text encoder: a prompt -> ids (``tokenizer``) -> one embedding per token (``clip`` or ``bert``)."""
