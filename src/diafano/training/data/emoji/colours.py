"""The named colours of scenes: backgrounds that fill a picture, and tints that recolour an object.

Values are sRGB bytes. They were picked to be told apart by name at a glance, and checked by eye at 64 pixels.
"""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 36, 44),
    "orange": (255, 140, 20),
    "yellow": (255, 222, 40),
    "green": (40, 160, 60),
    "blue": (36, 84, 224),
    "purple": (128, 48, 190),
    "pink": (255, 140, 200),
    "brown": (124, 74, 36),
    "black": (16, 16, 16),
    "white": (250, 250, 250),
    "grey": (136, 136, 136),
    "cyan": (40, 208, 222),
}
"""Background colours: name -> (red, green, blue), each 0 to 255."""

TINTS: dict[str, tuple[int, int, int]] = {
    name: COLOURS[name]
    for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "cyan", "black", "white")
}
"""Colours that an object can take. Brown and grey are left out: many objects have them by nature, and shading turns
orange into one and white into the other."""
