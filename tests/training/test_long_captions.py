"""Captions of more tokens than fit: training says how many, and what of them is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diafano.errors import Notes
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.spelling import cut_captions_note
from diafano.training.recipe import TextRecipe, UNetRecipe
from diafano.training.stages.text import TextStage
from diafano.training.stages.unet import UNetStage
from helpers import told

ROOM = 75


def digits(count: int) -> str:
    """So many tokens: CLIP splits numbers into single digits."""
    return " ".join(str(place % 10) for place in range(count))


@pytest.mark.parametrize("kind", ["padded with the end", "padded with another"])
def test_all_of_what_is_cut_is_told(tiny_model: StableDiffusion, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_model.tokenizer
    if kind == "padded with another":
        monkeypatch.setattr(tokenizer, "pad_token", 0)
    captions = [digits(3), digits(ROOM - 1), digits(ROOM), digits(ROOM) + " far away", digits(ROOM + 40), ""]
    note = cut_captions_note(tokenizer, captions, tokenizer(captions))
    assert note is not None
    assert note.startswith("2 of 6 captions have more than the 75 tokens that are learnt; of '0 1 2 3")
    assert note.endswith("these words are lost: 'far away'")
    assert cut_captions_note(tokenizer, captions[:3], tokenizer(captions[:3])) is None
    assert cut_captions_note(tokenizer, ["!" * ROOM], torch.zeros(1, 77, dtype=torch.int64)) is None


def with_captions(folder: Path, caption: str) -> dict[str, Any]:
    """Three pictures, one with that caption; the data of a recipe."""
    folder.mkdir()
    for name, text in (("a", caption), ("b", "a dog and a cat"), ("c", "a dog and a cat")):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return {"kind": "folder", "folder": folder, "size": 64}


def text_stage(folder: Path, caption: str) -> Any:
    data = with_captions(folder, caption)
    network = {"vocabulary": 600, "width": 16, "mlp_width": 32, "layers": 1, "heads": 2}
    ids = {"start_token": 0, "end_token": 1, "pad_token": 1}
    recipe = TextRecipe.model_validate(
        {
            "output": folder / "out",
            "data": data,
            "network": {**network, **ids},
            "vocabulary": 600,
            "picture_widths": (8, 8),
            "shared_width": 8,
            "loop": {"steps": 1},
        }
    )
    return TextStage(recipe, torch.device("cpu"))


def test_the_text_stage_says_so(tmp_path: Path, notes: Notes) -> None:
    with told("1 of 3 captions have more than the 75 tokens that are learnt"):
        text_stage(tmp_path / "long", digits(ROOM) + " lost")
    text_stage(tmp_path / "short", digits(ROOM))
    assert not notes


def test_the_unet_s_stage_says_so(tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path, notes: Notes) -> None:
    def stage(name: str, caption: str) -> None:
        recipe = UNetRecipe.model_validate(
            {
                "output": tmp_path / "out",
                "data": with_captions(tmp_path / name, caption),
                "autoencoder": tiny_folder,
                "text": tiny_folder,
                "network": tiny_model.unet.config.model_dump(),
                "schedule": tiny_model.schedule.config.model_dump(),
                "card": tiny_model.card.model_dump(),
                "loop": {"steps": 1},
            }
        )
        UNetStage(recipe, torch.device("cpu"))

    with told("1 of 3 captions have more than the 75 tokens that are learnt"):
        stage("long", digits(ROOM) + " lost")
    stage("short", digits(ROOM))
    assert not notes
