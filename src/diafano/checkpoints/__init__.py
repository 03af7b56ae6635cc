"""Model files <-> models.

``reading`` and ``writing`` move weights, ``parts`` is one part's folder, ``diffusers`` a model's, ``single_file`` all
in one file. What lies in them, under which names, a family declares (`families.family`).
"""
