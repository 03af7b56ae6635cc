"""Requests: what can be asked, checked, with its defaults, and how a picture records it."""
