"""Tileable pictures: where everything wraps around, no place is an edge, so what is rolled stays the same, rolled."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import diafano
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.tileable import padded, tileable, wrapped_axes
from diafano.networks.unet import UNet, UNetConfig
from diafano.pictures.files import read_parameters, read_picture
from diafano.request.recorded import from_infotext
from diafano.stable_diffusion import StableDiffusion

SHIFT = (8, 4)
"""Positions of the latent by which things are rolled, down and right: whole positions at the UNet's coarsest level."""


def rolled(x: Tensor, factor: int = 1, axes: str = "both") -> Tensor:
    down, right = (SHIFT[0] * (axes != "x") * factor, SHIFT[1] * (axes != "y") * factor)
    return torch.roll(x, (down, right), (-2, -1))


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("axes", ["both", "x", "y", None])
@torch.inference_mode()
def test_each_network_sees_no_edge_along_the_axes(axes: str | None) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(widths=(8, 16), layers=1, groups=4)).double()
    unet = UNet(UNetConfig(widths=(8, 16), layers=1, attention=(True, False), heads=(2, 2), text_width=8, groups=4))
    latent, text = torch.randn(1, 4, 16, 12).double(), torch.randn(1, 5, 8).double()
    pixels, time = torch.rand(1, 3, 32, 24).double(), torch.tensor([500.0])
    unet = unet.double()
    for along in ("x", "y"):
        with tileable(axes):
            shifts = [
                difference(autoencoder.decode(rolled(latent, 1, along)), rolled(autoencoder.decode(latent), 2, along)),
                difference(
                    autoencoder.encode(rolled(pixels, 2, along)).mean, rolled(autoencoder.encode(pixels).mean, 1, along)
                ),
                difference(unet(rolled(latent, 1, along), time, text), rolled(unet(latent, time, text), 1, along)),
            ]
        if axes in (along, "both"):
            assert max(shifts) < 1e-12
        else:
            assert min(shifts) > 1e-3


@pytest.mark.parametrize("tiles", [None, True])
def test_rolling_the_noise_rolls_the_picture(
    tiny_model: StableDiffusion, tiles: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(start: Tensor, axes: str | None) -> Tensor:
        monkeypatch.setattr(tiny_model, "noise", lambda *_: lambda: start, raising=False)
        (picture,) = tiny_model.generate("a fox", seed=1, size=(64, 128), tileable=axes, tiles=tiles)
        return torch.from_numpy(np.asarray(picture).astype(np.float32)).movedim(-1, 0)

    noise = torch.randn(1, 4, 16, 8)
    for axes, largest in (("both", 1), (None, 255)):
        apart = (draw(rolled(noise), axes) - rolled(draw(noise, axes), 8)).abs().max()
        assert apart <= largest
    assert apart > 20  # without wrapping


def test_the_opposite_edges_of_a_picture_meet() -> None:
    """What crosses an edge goes on at the other one: no jump there is larger than those within the picture."""
    model = diafano.load(device="cpu")

    def jumps(prompt: str, seed: int, axes: str) -> list[float]:
        values = np.asarray(model.generate(prompt, seed=seed, steps=15, tileable=axes)[0]).astype(float)
        return [
            float(np.abs(edges[0] - edges[-1]).mean() / np.abs(np.diff(edges, axis=0)).mean(axis=(1, 2)).max())
            for edges in (values.swapaxes(0, 1), values)
        ]

    apples = ("three red apples on a stars background", 3)
    assert max(jumps(*apples, "both")) < 0.5
    left_right, top_bottom = jumps(*apples, "x")
    assert left_right < 0.5 and top_bottom > 0.9  # where an apple is cut


def test_nothing_of_it_stays(tiny_model: StableDiffusion) -> None:
    before = tiny_model.generate("a fox", seed=1)[0]
    weights = {name: value.clone() for name, value in tiny_model.unet.state_dict().items()}
    wrapped = tiny_model.generate("a fox", seed=1, tileable=True)[0]
    assert wrapped.tobytes() != before.tobytes()

    def stop(step: int, *rest: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_model.generate("a fox", seed=1, tileable=True, on_step=stop)
    assert wrapped_axes() == (False, False)
    assert tiny_model.generate("a fox", seed=1)[0].tobytes() == before.tobytes()
    assert all(torch.equal(value, weights[name]) for name, value in tiny_model.unet.state_dict().items())


def test_other_threads_are_left_alone() -> None:
    conv, x, seen = nn.Conv2d(1, 1, 3, padding=1), torch.randn(1, 1, 4, 4), []
    plain = conv(x)
    with tileable("both"):
        thread = threading.Thread(target=lambda: seen.append(conv(x)))
        thread.start()
        thread.join()
        assert not torch.equal(conv(x), plain)
    assert torch.equal(seen[0], plain)


def test_padding_is_torchs_circular_one() -> None:
    x = torch.randn(2, 3, 5, 6)
    with tileable("both"):
        torch.testing.assert_close(padded(x, (1, 2, 0, 3)), nn.functional.pad(x, (1, 2, 0, 3), mode="circular"))
    torch.testing.assert_close(padded(x, (1, 2, 0, 3)), nn.functional.pad(x, (1, 2, 0, 3)))


def test_an_image_to_draw_over_is_seen_without_edges_too(tiny_model: StableDiffusion) -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    _, plain = tiny_model.prepare("a fox", image=image)
    _, wrapped = tiny_model.prepare("a fox", image=image, tileable="both")
    assert plain is not None and wrapped is not None
    assert not torch.equal(plain.latent, wrapped.latent)


# ---- what is said of it


@pytest.mark.parametrize(("said", "text"), [(True, "Tiling: True"), ("x", "Tiling: x"), ("Both", "Tiling: True")])
def test_it_is_recorded_and_read_back(tiny_model: StableDiffusion, said: bool | str, text: str) -> None:
    picture = tiny_model.generate("a fox", seed=1, steps=1, tileable=said)[0]
    assert f", {text}, " in picture.info["parameters"]
    recorded = from_infotext(picture.info["parameters"])
    assert not recorded.ignored
    again = tiny_model.generate(recorded.prompt, **recorded.settings)[0]
    assert again.tobytes() == picture.tobytes()
    assert "Tiling" not in tiny_model.generate("a fox", seed=1, steps=1, tileable="no")[0].info["parameters"]


def test_a1111s_word_for_it_is_understood() -> None:
    text = "a fox\nSteps: 4, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 64x64, Tiling: {}, Version: v1.9.0"
    assert from_infotext(text.format("True")).settings["tileable"] == "both"
    assert from_infotext(text.format("False")).settings["tileable"] is None
    assert from_infotext(text.format("diagonal")).ignored == ("Tiling: diagonal",)


def test_other_axes_are_one_sentence(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="tileable 'z' is not possible: use both, x, y or no"):
        tiny_model.request("a fox", tileable="z")


def test_the_command(tiny_folder: Path, tmp_path: Path) -> None:
    drawn, again, plain = (tmp_path / f"{name}.png" for name in ("drawn", "again", "plain"))
    base = ["generate", "a fox", "--seed", "1", "--model", str(tiny_folder), "--device", "cpu"]
    assert cli.run([*base, "--tileable", "both", "--tiles", "--output", str(drawn)]) == 0
    assert cli.run(["generate", "--from", str(drawn), *base[4:], "--output", str(again)]) == 0
    assert cli.run(["generate", "--from", str(drawn), *base[4:], "--tileable", "no", "--output", str(plain)]) == 0
    pictures = {path: np.asarray(read_picture(path)).astype(int) for path in (drawn, again, plain)}
    assert "Tiling: True" in str(read_parameters(again)) and "Tiling" not in str(read_parameters(plain))
    assert np.abs(pictures[again] - pictures[drawn]).max() <= 1
    assert np.abs(pictures[plain] - pictures[drawn]).max() > 10


def test_a_compiled_network_wraps_around_too() -> None:
    conv, x = nn.Conv2d(1, 1, 3, padding=1), torch.randn(1, 1, 4, 4)
    with torch.no_grad():
        plain = conv(x)
        conv.compile(backend="eager")
        torch.testing.assert_close(conv(x), plain)
        with tileable("both"):
            torch.testing.assert_close(torch.roll(conv(x), (1, 2), (2, 3)), conv(torch.roll(x, (1, 2), (2, 3))))
        torch.testing.assert_close(conv(x), plain)
