"""Named configurations: exact sizes of the originals, shapes of a run, nothing allocated."""

import subprocess
import sys

import pytest

from diafano.errors import UserError
from diafano.families.presets import PRESETS, build, find_preset, parameter_counts, shapes


def test_stable_diffusion_v1_has_the_original_counts() -> None:
    counts = parameter_counts(PRESETS["sd1"])
    assert counts == {"text_encoder": 123_060_480, "unet": 859_520_964, "autoencoder": 83_653_863}


def test_stable_diffusion_v2_has_the_original_counts() -> None:
    counts = parameter_counts(PRESETS["sd2"])
    assert counts == {"text_encoder": 340_387_840, "unet": 865_910_724, "autoencoder": 83_653_863}


def test_the_embedded_model_fits_into_40_mib_of_float16() -> None:
    assert 2 * sum(parameter_counts(PRESETS["embedded"]).values()) <= 40 * 2**20


def test_counting_imports_no_compiler() -> None:
    # torch's meta kernels would import its compiler and sympy: a second more for every load of a model
    program = (
        "import sys; from diafano.families.presets import *; parameter_counts(PRESETS['sd1']);"
        " sys.exit('sympy' in sys.modules or 'torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_shapes_of_stable_diffusion_v1() -> None:
    rows = {row.part: row for row in shapes(PRESETS["sd1"])}
    assert list(rows) == [
        "Input", "Image encoder", "Additive noise", "Text encoder", "UNet", "Sampler", "Decoder",
    ]  # fmt: skip
    assert (rows["Image encoder"].takes, rows["Image encoder"].gives) == ("(3, 512, 512)", "(4, 64, 64)")
    assert rows["Text encoder"].gives == "(77, 768)"
    assert (rows["UNet"].gives, rows["UNet"].parameters) == ("(4, 64, 64)", 859_520_964)
    assert rows["Decoder"].gives == "(3, 512, 512)"
    assert (rows["Image encoder"].parameters or 0) + (rows["Decoder"].parameters or 0) == 83_653_863


def test_shapes_at_another_size() -> None:
    rows = {row.part: row for row in shapes(PRESETS["sd1"], 768, 512)}
    assert rows["Decoder"].takes == "(4, 64, 96)"  # height comes first in tensors
    with pytest.raises(UserError, match="multiples of 8"):
        shapes(PRESETS["sd1"], 100, 512)


def test_an_unknown_preset_is_one_sentence() -> None:
    assert find_preset(" SD1 ") is PRESETS["sd1"]
    with pytest.raises(UserError, match=r"'sd9'.*sd1, sd2, embedded"):
        find_preset("sd9")


def test_built_parts_have_random_weights() -> None:
    parts = build(PRESETS["embedded"])
    assert parts.unet.conv_in.weight.std() > 0
    assert parts.text_encoder.config == PRESETS["embedded"].text_encoder
