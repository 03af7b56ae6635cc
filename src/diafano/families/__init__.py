"""Families: which networks, texts and noise make a model, and what its files look like.

``family`` says what is declared, ``stable_diffusion`` declares the first two, ``table`` has them all. A new family is a
file like that and a row; ``tests/families/test_toy_family.py`` is one.
"""
