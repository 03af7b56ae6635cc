"""Models by their hub id, from a server on loopback that answers as the hub does: what is fetched, and what is said."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.hub import HubId, find_hub_id, needed_files
from diafano.checkpoints.single_file import save_file as save_single_file
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.families.table import FAMILIES
from diafano.stable_diffusion import StableDiffusion

UNET, VAE, TEXT = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
CONFIGS = {
    "model_index.json",
    "diafano.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
}
TOKENIZER = {
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
}
ALL = CONFIGS | TOKENIZER | {UNET, VAE, TEXT}


@dataclass
class Hub:
    """A hub of one repository, owner/tiny, whose files lie in `folder`; it counts what it is asked for."""

    folder: Path
    url: str = ""
    branches: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40, "v1.0": "b" * 40})
    refusal: tuple[int, str] | None = None
    """(HTTP status, X-Error-Code) of every answer about owner/tiny."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request, in order."""
    tokens: set[str] = field(default_factory=set)

    def fetched(self) -> list[str]:
        """Files that were sent, in order."""
        return [path.split("/", 5)[5] for path in self.asked if path.startswith("GET /owner/tiny/resolve/")]

    def answer(self, method: str, url: str, token: str) -> tuple[int, dict[str, str], bytes]:
        path = unquote(urlsplit(url).path)
        words = path.strip("/").split("/")
        listing = words[:2] == ["api", "models"]
        if not listing and words[2:3] != ["resolve"]:  # what else newer versions of the library would like to know
            return 404, {}, b""
        self.asked.append(f"{method} {path}")
        self.tokens.add(token)
        owner, name, _, revision, *inside = words[2:] if listing else words
        if (owner, name) != ("owner", "tiny"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.refusal is not None:
            return self.refusal[0], {"X-Error-Code": self.refusal[1]} if self.refusal[1] else {}, b""
        commit = revision if revision in self.branches.values() else self.branches.get(revision)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if listing:
            files = [{"rfilename": path.relative_to(self.folder).as_posix()} for path in self.folder.rglob("*.*")]
            return 200, {}, json.dumps({"id": "owner/tiny", "sha": commit, "siblings": files}).encode()
        file = self.folder.joinpath(*inside)
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, headers, content = self.hub.answer(self.command, self.path, self.headers.get("Authorization", ""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """owner/tiny is `tiny_model`, with everything beside it that such repositories have and nobody needs."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "repository"))
    for extra in ("safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json", "README.md"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_text("not needed")
    for extra in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_flax_model.msgpack", "v1-pruned.ckpt"):
        (folder / extra).write_text("not needed")
    for extra in ("unet/model.onnx", "text_encoder/pytorch_model.bin", "tokenizer/tokenizer.json"):
        (folder / extra).write_text("not needed")
    for name in (UNET, VAE, TEXT):
        half = {key: tensor.half() for key, tensor in load_file(folder / name).items()}
        save_file(half, (folder / name).with_suffix(".fp16.safetensors"))
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the library waits between tries
    yield hub
    server.shutdown()
    server.server_close()


def load(source: str = "owner/tiny", **options: Any) -> StableDiffusion:
    return diafano.load(source, device="cpu", **options)


def refused(source: str = "owner/tiny", **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load(source, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


def switch_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there any more."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    hub.asked.clear()


# ---- what is fetched


def test_only_what_is_needed_is_fetched_and_only_once(
    hub: Hub, tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load()
    assert torch.equal(loaded.unet.conv_in.weight, tiny_model.unet.conv_in.weight)
    assert sorted(hub.fetched()) == sorted(ALL)
    assert hub.tokens == {"Bearer hf_secret"}

    hub.asked.clear()
    load()
    assert hub.fetched() == []
    assert len(hub.asked) == 2  # whether the branch moved, and the list of files

    switch_off(hub, monkeypatch)
    assert load().generate("a red apple", seed=1)[0].tobytes() == loaded.generate("a red apple", seed=1)[0].tobytes()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load()
    load("owner/tiny@main")
    assert hub.asked == []


def test_half_precision_is_fetched_when_asked_for(hub: Hub) -> None:
    load(dtype="float16")
    assert {name for name in hub.fetched() if "fp16" in name} == {
        name.replace(".safetensors", ".fp16.safetensors") for name in (UNET, VAE, TEXT)
    }
    assert not {UNET, VAE, TEXT} & set(hub.fetched())


@pytest.mark.parametrize("kind", ["fp16.safetensors", "bin", "shards"])
def test_weights_are_found_in_whichever_form_they_are(
    hub: Hub, tiny_model: StableDiffusion, tmp_path: Path, kind: str
) -> None:
    part = hub.folder / "unet"
    weights = load_file(hub.folder / UNET)
    for path in part.glob("diffusion_*"):
        path.unlink()
    if kind == "shards":
        save_folder(tiny_model, tmp_path / "shards", max_shard_bytes=20_000)
        for path in (tmp_path / "shards/unet").glob("diffusion_*"):
            shutil.copy(path, part)
    elif kind == "bin":
        torch.save(weights, part / "diffusion_pytorch_model.bin")
    else:
        save_file({name: tensor.half() for name, tensor in weights.items()}, part / f"diffusion_pytorch_model.{kind}")
    stored = {f"unet/{path.name}" for path in part.glob("diffusion_*")}
    loaded = load(dtype="float32")
    wanted = weights["conv_in.weight"].half().float() if "fp16" in kind else weights["conv_in.weight"]
    assert torch.equal(loaded.unet.conv_in.weight, wanted)
    assert {name for name in hub.fetched() if "unet/diff" in name} == stored and (len(stored) > 2) == (kind == "shards")


def test_a_revision_is_named_in_the_id_or_beside_it(hub: Hub) -> None:
    for source, options in (
        ("owner/tiny@v1.0", {}),
        ("owner/tiny", {"revision": "v1.0"}),
        ("owner/tiny@v1.0", {"revision": "v1.0"}),
        (f"owner/tiny@{'b' * 40}", {}),
    ):
        hub.asked.clear()
        load(source, **options)
        assert not any("a" * 40 in path or "main" in path for path in hub.asked)
    assert "differ" in refused("owner/tiny@v1.0", revision="main")
    assert "no revision 'v9'" in refused("owner/tiny@v9") and "no revision 'v9'" in refused(revision="v9")


@pytest.mark.parametrize("command", ["generate", "noise", "inspect", "convert"])
def test_every_command_takes_a_revision(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    arguments = {
        "generate": ["a fox", "--steps", "1", "--model", "owner/tiny", "--output", str(picture)],
        "noise": [str(picture), "--steps", "1", "--model", "owner/tiny", "--output", str(picture)],
        "inspect": ["owner/tiny"],
        "convert": ["owner/tiny", str(tmp_path / "copy")],
    }[command]
    assert cli.run([command, *arguments, "--revision", "v1.0"]) == 0, capsys.readouterr().err
    assert hub.asked and not any("a" * 40 in path or "main" in path for path in hub.asked)
    assert cli.run([command, *arguments, "--revision", "v9"]) == 2
    assert "no revision 'v9'" in capsys.readouterr().err
    here = [str(tmp_path) if argument == "owner/tiny" else argument for argument in arguments]
    assert cli.run([command, *here, "--revision", "v9"]) == 2
    assert "revision 'v9' was given, but" in capsys.readouterr().err


def test_a_model_without_a_card_is_called_by_its_name(hub: Hub) -> None:
    assert load().card.name == "tiny"
    (hub.folder / "diafano.json").unlink()
    hub.branches["main"] = "c" * 40
    card = load().card
    assert (card.name, card.size) == ("tiny", (64, 64))


def test_needed_files_of_a_repository_that_lists_nothing_are_the_usual_ones() -> None:
    named = set(needed_files([], FAMILIES["sd1"], weights=False))
    assert named == (CONFIGS | TOKENIZER) - {"model_index.json", "diafano.json"} - {
        name for name in TOKENIZER if "config" in name or "map" in name
    }
    assert set(needed_files([], FAMILIES["sd1"], prefer_half=True)) == named | {UNET, VAE, TEXT}


# ---- what is a hub id


def test_what_exists_here_is_a_path(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_hub_id("owner/tiny") == HubId("owner/tiny")
    assert find_hub_id("owner/tiny@refs/pr/1") == HubId("owner/tiny", "refs/pr/1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hub.folder, tmp_path / "owner/tiny")
    assert find_hub_id("owner/tiny") is None
    load()
    assert hub.asked == []
    assert "no hub id" in refused(revision="main")


@pytest.mark.parametrize(
    "source",
    [
        Path("owner/tiny"), "tiny", "a/b/c", "./tiny", "../tiny", "/owner/tiny", "owner/", "owner/tiny@", "owner/ti ny",
        "owner/tiny.safetensors", "models/sd15.ckpt", "owner/..", "owner/tiny@../../x", "-x/tiny", "~/tiny", "", None,
    ],
)  # fmt: skip
def test_any_other_name_is_never_sent_to_the_hub(source: object) -> None:
    assert find_hub_id(source) is None


# ---- what is said


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    assert "'owner/none'" in (said := refused("owner/none")) and "check the name" in said and "HF_TOKEN" in said
    assert "owner/a--b" in refused("owner/a--b")
    assert "single files" in refused("owner/tiny", prediction="v") and len(hub.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(401, "GatedRepo", "gated"), (403, "GatedRepo", "gated"), (403, "", "HTTP status 403"), (503, "", "status 503")],
)
def test_a_refusal_says_what_to_do(hub: Hub, status: int, code: str, said: str) -> None:
    hub.refusal = (status, code)
    sentence = refused()
    assert said in sentence and ("try again later" if status == 503 else "HF_TOKEN") in sentence


def test_incomplete_and_strange_repositories(hub: Hub) -> None:
    for name in (UNET, UNET.replace("safetensors", "fp16.safetensors"), "unet/diffusion_pytorch_model.bin"):
        (hub.folder / name).unlink()
    assert f"owner/tiny has no {UNET}" in refused()
    index = hub.folder / f"{UNET}.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../../secret.safetensors"}}))
    hub.branches["main"] = "c" * 40
    assert "outside" in refused()

    (hub.folder / "model_index.json").write_text(json.dumps({"_class_name": "XL", "text_encoder_2": ["x", "y"]}))
    hub.branches["main"] = "d" * 40
    hub.asked.clear()
    assert "owner/tiny holds a XL" in refused() and hub.fetched() == ["model_index.json"]
    (hub.folder / "model_index.json").unlink()
    hub.branches["main"] = "e" * 40
    assert "no model_index.json" in (said := refused()) and "path" in said


def test_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in (said := refused()) and "not in the cache" in said
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    switch_off(hub, monkeypatch)
    assert "cannot be reached" in (said := refused()) and "connection" in said


def test_a_download_that_was_interrupted_is_told_and_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = (hub.folder / UNET).rename(hub.folder / "aside")
    (hub.folder / UNET.replace("safetensors", "fp16.safetensors")).unlink()
    (hub.folder / "unet/diffusion_pytorch_model.bin").unlink()
    refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"{UNET} of owner/tiny is not in the cache" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    weights.rename(hub.folder / UNET)
    load()
    assert sorted(hub.fetched()) == sorted(ALL)


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    assert "No space left" in (said := refused()) and "HF_HOME" in said


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in refused()


# ---- a single file's tokenizer


def test_a_single_files_tokenizer_comes_from_the_hub(
    hub: Hub, narrow_model: Callable[..., StableDiffusion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = narrow_model()
    save_single_file(model, tmp_path / "single.safetensors")

    loaded = load(str(tmp_path / "single.safetensors"), tokenizer="owner/tiny")
    assert set(hub.fetched()) == TOKENIZER
    assert torch.equal(loaded.tokenizer(["a red apple"]), model.tokenizer(["a red apple"]))

    elsewhere = replace(cast(Any, FAMILIES["sd1"].single_file), tokenizer="owner/tiny@v1.0")
    monkeypatch.setitem(FAMILIES, "sd1", replace(FAMILIES["sd1"], single_file=elsewhere))
    for path in (hub.folder / "tokenizer").iterdir():  # a repository that is a text encoder alone has them at its top
        path.rename(hub.folder / path.name)
    hub.asked.clear()
    load(str(tmp_path / "single.safetensors"))
    asked = {path.split("/", 5)[5] for path in hub.asked if path.startswith("HEAD")}
    assert {f"tokenizer/{name}" for name in asked} - {"tokenizer/tokenizer/tokenizer_config.json"} == TOKENIZER
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load(str(tmp_path / "single.safetensors"))
    shutil.rmtree(tmp_path / "cache")
    assert "--tokenizer FOLDER" in (said := refused(str(tmp_path / "single.safetensors"))) and "HF_HUB_OFFLINE" in said


# ---- the command line


def test_inspect_fetches_no_weights(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "owner/tiny"]) == 0
    assert capsys.readouterr().out.startswith("tiny: a picture of 64x64")
    assert set(hub.fetched()) == CONFIGS | TOKENIZER


def test_convert_takes_a_hub_id(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["convert", "owner/tiny@v1.0", str(tmp_path / "copy"), "--dtype", "float32"]) == 0
    copied, original = load_file(tmp_path / "copy" / UNET), load_file(hub.folder / UNET)
    assert all(torch.equal(copied[name], original[name]) for name in original)
    assert cli.run(["convert", "owner/none", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_real_command_draws_online_and_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)

    def generate(output: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["generate", "a red apple", "--model", "owner/tiny", "--seed", "1", "--device", "cpu"]
        home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "diafano", *command, "--output", str(tmp_path / output)],
            env={**os.environ, **home, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    online = generate("online.png")
    assert online.returncode == 0, online.stderr
    assert set(hub.fetched()) == ALL and set(hub.tokens) == {"Bearer hf_secret"}
    hub.asked.clear()
    offline = generate("offline.png", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert hub.asked == []
    assert (tmp_path / "online.png").read_bytes() == (tmp_path / "offline.png").read_bytes()
