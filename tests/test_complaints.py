"""What users of other programs complain about most, as far as it concerns files and memory: none of it happens here.

Each test goes the way that a user goes, `diafano.load` or a command. What lies below has tests of its own beside its
code: `checkpoints/test_single_file.py`, `checkpoints/test_bad_files.py`, `test_stable_diffusion.py`.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.single_file import save_file
from diafano.cli import main as cli
from diafano.errors import Notes, UserError
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.pictures.files import read_picture
from diafano.sampling import noise as noise_module
from diafano.sampling.samplers.table import PathNoise
from diafano.stable_diffusion import StableDiffusion
from helpers import told

SWITCHES = 20
DECIDING = "model.diffusion_model.output_blocks.1.1.transformer_blocks.0.norm1.bias"
"""The tensor of `single_file`'s UNet by whose spread v prediction is recognised."""


@pytest.fixture(params=[1, 2], ids=["1.x", "2.x"])
def single_file(
    request: pytest.FixtureRequest, narrow_model: Callable[[bool], StableDiffusion], tmp_path: Path
) -> Path:
    """A small model of either family without metadata; its tokenizer is in the folder beside it."""
    second = request.param == 2
    model = narrow_model(second)
    model.tokenizer.save(tmp_path / "tokenizer")
    if second:  # padded with "!"
        path = tmp_path / "tokenizer/tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    save_file(model, tmp_path / "said.safetensors")
    save_tensors(load_tensors(tmp_path / "said.safetensors"), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def load_single(path: Path, **options: Any) -> StableDiffusion:
    return diafano.load(path, device="cpu", tokenizer=path.parent / "tokenizer", **options)


def rewrite(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace tensors of a file, or add some."""
    save_tensors({name: tensor.clone() for name, tensor in (load_tensors(path) | tensors).items()}, path, metadata)


# ---- memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_complaint_memory_grows_at_each_model_switch(tiny_folder: Path, tmp_path: Path) -> None:
    def in_use() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def mapped(folder: Path) -> bool:
        return str(folder) in Path("/proc/self/maps").read_text()

    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))  # which nobody else has mapped
    gc.disable()  # a model that only the garbage collector frees stays until it happens to run
    try:
        for switch in range(SWITCHES):
            model = diafano.load(device="cpu") if switch % 2 == 0 else diafano.load(copy, device="cpu")
            if switch % 2 == 1:
                assert mapped(copy)
            else:
                size = sum(tensor.nbytes for part in (model.unet, model.autoencoder) for tensor in part.parameters())
            parts = [weakref.ref(part) for part in (model, model.unet, model.autoencoder, model.text_encoder)]
            del model
            assert not any(part() for part in parts)
            if switch == 3:
                after_the_first = in_use()
    finally:
        gc.enable()
    assert not mapped(copy) and not mapped(diafano.EMBEDDED)
    assert size > 2**25  # else nothing could be seen
    assert in_use() - after_the_first < size


def test_complaint_out_of_memory_in_the_decoder(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pictures are decoded in turn. `engine/test_tiles.py` has what happens where one is too large."""
    decoded = []

    def decode(latent: Tensor) -> Tensor:
        decoded.append(len(latent) * latent.shape[-2] * latent.shape[-1] * 8 * 8)
        return torch.zeros(len(latent), 3, 8, 8)

    monkeypatch.setattr(tiny_model.autoencoder, "decode", decode)
    for edge, count in ((512, 4), (256, 9), (64, 100)):
        assert len(list(tiny_model.decode(torch.zeros(count, 4, edge // 8, edge // 8)))) == count
    assert max(decoded) <= 512 * 512


# ---- files


def test_complaint_v_prediction_is_not_detected_in_a_single_file(single_file: Path) -> None:
    spread = {"noise": torch.full((32,), 0.5), "v": torch.linspace(-1, 1, 32)}
    config = json.loads((single_file.parent / "tokenizer/tokenizer_config.json").read_text())
    second = config["pad_token"] == "!"
    for prediction, bias in spread.items() if second else ():
        rewrite(single_file, {DECIDING: bias})
        with told(f"taken to predict {prediction} .*say --prediction"):
            assert load_single(single_file).schedule.config.prediction == prediction
    rewrite(single_file, {"v_pred": torch.zeros(1)})
    assert load_single(single_file).schedule.config.prediction == "v"
    assert load_single(single_file, prediction="noise").schedule.config.prediction == "noise"


def test_complaint_v_prediction_is_not_detected_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "v"))
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    model, noise = diafano.load(folder, device="cpu"), diafano.load(tiny_folder, device="cpu")
    assert model.schedule.config.prediction == "v"
    assert model.generate("a fox", seed=1)[0].tobytes() != noise.generate("a fox", seed=1)[0].tobytes()


def test_complaint_a_single_file_does_not_load(single_file: Path, notes: Notes) -> None:
    expected = load_single(single_file, prediction="noise").generate("a fox", seed=1, steps=1, size=(64, 64))[0]
    extra = {
        "alphas_cumprod": NoiseSchedule(ScheduleConfig()).alphas_cumprod.float(),
        "model_ema.decay": torch.ones(()),
        "loss.logvar": torch.zeros(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    rewrite(single_file, extra)
    assert load_single(single_file).generate("a fox", seed=1, steps=1, size=(64, 64))[0].tobytes() == expected.tobytes()
    torch.save({"state_dict": load_tensors(single_file), "epoch": 1}, single_file.with_suffix(".ckpt"))
    again = load_single(single_file.with_suffix(".ckpt")).generate("a fox", seed=1, steps=1, size=(64, 64))[0]
    assert again.tobytes() == expected.tobytes()
    expected_notes = ("is taken to predict", "is far from")
    notes[:] = [note for note in notes if not any(part in note for part in expected_notes)]


def test_complaint_a_single_files_config_is_silently_ignored(single_file: Path) -> None:
    said = {"modelspec.prediction_type": "v", "modelspec.resolution": "96x64"}
    rewrite(single_file, {"ztsnr": torch.zeros(1)}, said)
    model = load_single(single_file)
    assert (model.schedule.config.prediction, model.card.size) == ("v", (96, 64))
    assert model.schedule.config.zero_terminal_snr and model.schedule.config.spacing == "trailing"
    assert model.generate("a fox", seed=1, steps=1)[0].size == (96, 64)


def test_complaint_a_folders_config_is_silently_ignored(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "odd"))
    config = folder / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "time_embedding_act_fn": "gelu"}))
    with pytest.raises(UserError, match="time_embedding_act_fn"):
        diafano.load(folder, device="cpu")
    with pytest.raises(UserError, match="says itself"):  # rather than a prediction that changes nothing
        diafano.load(tiny_folder, device="cpu", prediction="v")


class Runs:
    """Writes the file `ran` when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {self.target}",)


def test_complaint_a_pickle_runs_code(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, folder = tmp_path / "ran", Path(shutil.copytree(tiny_folder, tmp_path / "folder"))
    content = {"state_dict": {"model.diffusion_model.x": torch.zeros(1)}, "callbacks": Runs(ran)}
    torch.save(content, tmp_path / "model.ckpt")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(content, folder / "unet/diffusion_pytorch_model.bin")
    picture = tmp_path / "picture.png"
    for arguments in (
        ["generate", "a fox", "--model", str(tmp_path / "model.ckpt"), "--output", str(picture)],
        ["generate", "a fox", "--model", str(folder), "--output", str(picture)],
        ["inspect", str(tmp_path / "model.ckpt")],
        ["convert", str(tmp_path / "model.ckpt"), str(tmp_path / "copy")],
    ):
        assert cli.run(arguments) == 2
        said = capsys.readouterr().err
        assert "nothing was run" in said and "system" in said and said.count("\n") == 1
    assert not ran.exists() and not picture.exists()


def test_complaint_a_model_reads_files_outside_its_folder(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "folder"))
    weights = (folder / "unet/diffusion_pytorch_model.safetensors").rename(tmp_path / "private.safetensors")
    weight_map = dict.fromkeys(load_tensors(weights), "../../private.safetensors")
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match="outside its folder"):
        diafano.load(folder, device="cpu")


# ---- pictures


def test_complaint_float16_gives_nan_and_black_pictures(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in tiny_model.autoencoder.state_dict().items()}
    weights["decoder.conv_in.weight"] *= 1e5  # sums beyond float16's 65504
    save_folder(tiny_model, tmp_path / "model")
    save_tensors(weights, tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    half, full = (diafano.load(tmp_path / "model", device="cpu", dtype=dtype) for dtype in ("float16", "float32"))
    assert {tensor.dtype for tensor in half.autoencoder.parameters()} == {torch.float16}
    with told("the decoder gave NaN or infinity in float16 and was run again in float32"):
        one = np.asarray(half.generate("a fox", seed=1)[0]).astype(int)
    assert {tensor.dtype for tensor in half.autoencoder.parameters()} == {torch.float16}
    other = np.asarray(full.generate("a fox", seed=1)[0]).astype(int)
    assert one.std() > 1
    assert np.abs(one - other).mean() < 4


def test_complaint_a_seed_gives_another_picture_in_another_batch_size(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(name: str, seed: int, count: int) -> list[np.ndarray]:
        arguments = [
            "generate",
            "a fox",
            "--model",
            str(tiny_folder),
            "--sampler",
            "euler_ancestral",
            "--device",
            "cpu",
        ]
        more = ["--seed", str(seed), "--count", str(count), "--output", str(tmp_path / name)]
        assert cli.run([*arguments, *more]) == 0
        paths = capsys.readouterr().out.splitlines()
        return [np.asarray(read_picture(Path(path))).astype(int) for path in paths]

    five = draw("five.png", 7, 5)
    for first, count in ((7, 1), (10, 1), (8, 3)):
        for index, picture in enumerate(draw(f"{first}-{count}.png", first, count)):
            assert np.abs(picture - five[first - 7 + index]).max() <= 1
    assert np.abs(five[0] - five[1]).max() > 10


@pytest.mark.parametrize("like", [None, "diffusers", "a1111", "comfyui"])
@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_complaint_a_seed_gives_another_picture_on_another_device(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, like: str | None, sampler: str
) -> None:
    """All noise is drawn on the CPU and sent to the device, and nothing else is drawn (rounding: tests/test_gpu.py)."""
    sent: list[tuple[torch.Tensor, str]] = []
    asked: list[tuple[float, ...]] = []
    usual = tiny_model.noise

    def to_device(noise: Tensor, device: torch.device) -> Tensor:
        sent.append((noise.clone(), device.type))
        return noise

    def recording(*which: Any) -> PathNoise:
        source = usual(*which)
        along = source.between if isinstance(source, PathNoise) else lambda *_: source()
        return PathNoise(lambda: (asked.append(()), source())[1], lambda *at: (asked.append(at), along(*at))[1])

    monkeypatch.setattr(noise_module, "to_device", to_device)
    monkeypatch.setattr(tiny_model, "noise", recording)
    request, random = tiny_model.request("a fox", seed=7, steps=4, sampler=sampler, like=like), torch.get_rng_state()
    tiny_model.draw(request)
    assert torch.equal(torch.get_rng_state(), random)
    on_cpu = [noise for noise, _ in sent]
    assert len(asked) == len(sent) > 1
    assert all(noise.device.type == "cpu" for noise in on_cpu)

    sent.clear()
    noise = tiny_model.plan(request).passes[0].noise
    there = noise.source(range(1), on_cpu[0].shape[1:], torch.device("cuda"))
    for levels in asked:
        there.between(*levels) if levels and isinstance(there, PathNoise) else there()
    assert {device for _, device in sent} == {"cuda"}
    assert all(torch.equal(noise, wanted) for (noise, _), wanted in zip(sent, on_cpu, strict=True))


def test_complaint_import_and_load_take_over_ten_seconds(single_file: Path) -> None:
    """What takes so long elsewhere does not happen, in a process of its own; benchmarks/load_time.py times it.

    Neither other libraries for models nor torch's compiler come in, and the weights stay in the file until they run.
    """
    code = f"""
import sys
import torch
import diafano
where = {str(single_file.parent / "tokenizer")!r}
model = diafano.load({str(single_file)!r}, tokenizer=where, dtype="float32", device="cpu")
print(*sorted({{"transformers", "diffusers", "accelerate", "scipy", "sympy", "torch._dynamo"}} & sys.modules.keys()))
lines = [line.split() for line in open("/proc/self/maps")] if sys.platform == "linux" else []
mapped = [[int(end, 16) for end in fields[0].split("-")] for fields in lines if fields[-1] == {str(single_file)!r}]
weights = [weight for part in (model.unet, model.text_encoder) for weight in part.parameters()]
inside = [any(start <= weight.data_ptr() < end for start, end in mapped) for weight in weights]
print(sys.platform != "linux" or sum(inside) > 0.9 * len(inside))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True"]
