"""Families: which networks, texts and noise make a model, and what their weights are called."""
