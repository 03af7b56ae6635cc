"""Captioned pictures: folders of them, and emoji scenes made on the fly.

``PictureFolder`` and ``EmojiScenes`` both hand out an ``Example``: pixels and a caption. A scene (``scenes``) is
sampled (``scene_sampler``), drawn from sprites (``sprites``, ``objects``, ``colours``) and put into words
(``grammar``).
"""
