"""Samplers: one plain function each, and the table of them."""
