"""Draws docs/pictures.png: what the embedded model makes of prompts that it was not trained on.

.venv/bin/python docs/scripts/pictures.py
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import diafano

PROMPTS = (
    "a penguin on a red background",
    "a rocket on a purple background",
    "a blue fox on a white background",
    "three bananas on green",
    "a fish and a star on grey",
    "a strawberry left of an owl on pink",
    "a yellow rocket and a purple cat",
    "four frogs on orange",
    "a big mushroom on cyan",
    "a house above a tree on blue",
    "a small car on yellow",
    "a green heart on brown",
)
COLUMNS, SCALE, CAPTION = 4, 3, 30


def main() -> None:
    model = diafano.load()
    edge = model.card.size[0] * SCALE
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (edge + 12) + 12, rows * (edge + CAPTION + 8) + 8), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, prompt in enumerate(PROMPTS):
        picture = model.generate(prompt, seed=index)[0].resize((edge, edge), Image.Resampling.LANCZOS)
        left, top = 12 + index % COLUMNS * (edge + 12), 8 + index // COLUMNS * (edge + CAPTION + 8)
        sheet.paste(picture, (left, top))
        draw.text((left + edge // 2, top + edge + 4), prompt, fill="black", font=font, anchor="ma")
    sheet.save(Path(__file__).parents[1] / "pictures.png", optimize=True)


if __name__ == "__main__":
    main()
