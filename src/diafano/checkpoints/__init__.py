"""Model files <-> models.

``reading`` and ``writing`` move weights, ``configs`` translates settings, ``diffusers`` is the whole folder.
"""
