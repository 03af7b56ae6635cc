"""Previews: a file that shows what a picture looks like so far."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import diafano
from diafano.checkpoints.tiny_decoder import save_tiny_decoder
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.explain.preview import Preview, preview_pictures
from diafano.networks.tiny_decoder import TinyDecoder, TinyDecoderConfig
from diafano.pictures.files import read_picture
from diafano.pictures.pixels import grid, to_picture
from diafano.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def decoder() -> TinyDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyDecoder(TinyDecoderConfig(width=8, blocks=(1, 1, 1, 1)))


@pytest.mark.parametrize("tiny", [True, False])
def test_it_shows_the_clean_estimate_of_each_so_many_steps(
    tiny: bool, decoder: TinyDecoder, tiny_model: StableDiffusion, tmp_path: Path
) -> None:
    preview = Preview(tiny_model, tmp_path / "so_far.png", every=3, decoder=decoder if tiny else None)
    shown: list[Image.Image] = []
    cleans: list[Tensor] = []

    def on_step(step: int, sigma: float, noisy: Tensor, clean: Tensor) -> None:
        (tmp_path / "so_far.png").unlink(missing_ok=True)
        preview(step, sigma, noisy, clean)
        if step % 3 == 0:
            shown.append(read_picture(tmp_path / "so_far.png"))
            cleans.append(clean.clone())
        assert [path.name for path in tmp_path.iterdir()] == ["so_far.png"] * (step % 3 == 0)

    tiny_model.generate("a fox", steps=8, seed=1, count=2, on_step=on_step)
    assert len(shown) == 3
    for picture, clean in zip(shown, cleans, strict=True):
        pixels = decoder.decode(clean) if tiny else [*tiny_model.decode(clean)]
        with torch.no_grad():
            expected = grid([to_picture(one) for one in pixels])
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).max() <= 1


def test_how_often_where_nothing_is_said(decoder: TinyDecoder, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    assert Preview(tiny_model, tmp_path / "a.png", decoder=decoder).every == 1
    assert Preview(tiny_model, tmp_path / "a.png").every == 10


def test_nothing_is_shown_of_a_run_that_comes_again(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    latent = torch.full((1, 4, 8, 8), torch.nan)
    assert preview_pictures(tiny_model, latent) is None
    Preview(tiny_model, tmp_path / "a.png")(0, 1.0, latent, latent)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_heard_before_the_work(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every 0 steps"):
        Preview(tiny_model, tmp_path / "a.png", every=0)
    with pytest.raises(UserError, match="picture format"):
        Preview(tiny_model, tmp_path / "a.xyz")


def test_whoever_draws_without_previews_does_not_load_them() -> None:
    code = "import diafano.stable_diffusion, sys; print('diafano.networks.tiny_decoder' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- the command


def test_the_picture_is_the_same_with_previews(
    decoder: TinyDecoder, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_decoder(decoder, tmp_path / "tiny.safetensors")
    command = ["generate", "a fox", "--model", str(tiny_folder), "--seed", "1", "--output"]
    assert cli.run([*command, str(tmp_path / "a.png")]) == 0
    shown = ["--preview", str(tmp_path / "p.webp"), "--preview-decoder", str(tmp_path / "tiny.safetensors")]
    assert cli.run([*command, str(tmp_path / "b.png"), *shown, "--preview-every", "2"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert read_picture(tmp_path / "p.webp").size == (64, 64)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "p.webp")
    own = ["--preview", str(tmp_path / "own.png")]  # by the model's own decoder
    assert cli.run([*command, str(tmp_path / "c.png"), *own]) == 0
    assert read_picture(tmp_path / "own.png").size == (64, 64)


def test_the_embedded_model_has_a_tiny_decoder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[object] = []

    def init(self: Preview, *arguments: object, decoder: object = None, **more: object) -> None:
        by.append(decoder)
        raise UserError("seen")

    monkeypatch.setattr(Preview, "__init__", init)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["generate", "a fox", "--preview", "p.png"]) == 2
    vae = Path(diafano.__file__).parent / "embedded"
    assert cli.run(["generate", "a fox", "--preview", "p.png", "--vae", str(vae)]) == 2
    assert isinstance(by[0], TinyDecoder) and by[1] is None  # of another autoencoder it knows nothing


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--preview-every", "2"], "there is no preview to make"),
        (["--preview-decoder", "x"], "there is no preview to make"),
        (["--preview", "p.png", "--preview-every", "0"], "every 0 steps"),
        (["--preview", "absent/p.png"], "no folder 'absent'"),
        (["--preview", "p.png", "--preview-decoder", "absent"], "no tiny decoder 'absent'"),
        (["--preview", "p.png", "--vary", "steps=1,2"], "leave out --grid, --filmstrip, --preview"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: list[str],
    complaint: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["generate", "a fox", "--model", str(tiny_folder), *options]) == 2
    out, error = capsys.readouterr()
    assert out == "" and complaint in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_real_command_shows_and_is_stopped(tiny_folder: Path, tmp_path: Path) -> None:
    """Whole at any time, also after Ctrl-C; nothing else is left."""
    long = ["--steps", "1000", "--count", "100", "--output", "a.png", "--preview", "p.png", "--preview-every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diafano", "generate", "a fox", "--model", str(tiny_folder), *long],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are started deaf to it
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "p.png").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(20):
        read_picture(tmp_path / "p.png")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "diafano: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    assert read_picture(tmp_path / "p.png").size[0] > 64  # a sheet of the batch
