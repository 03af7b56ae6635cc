"""Emoji scenes: captioned pictures made on the fly, in any number."""
