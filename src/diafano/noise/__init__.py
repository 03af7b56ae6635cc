"""Additive noise: trained levels, and where the noise of a seed comes from."""
