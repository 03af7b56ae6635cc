"""diffusers' pipeline with its networks run by OpenVINO in bfloat16, each compiled for the shapes that it is given."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from .inputs import latent, pixels, text_embeddings
from .with_diffusers import Diffusers

SETTINGS = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
CONVERTED = "openvino"
"""The model's subfolder for `convert`."""


class OpenVINO(Diffusers):
    def load(self) -> None:
        """Compiles what one picture of 512x512 needs."""
        self.core = openvino.Core()
        self.compiled: dict[tuple[str, int, int], Any] = {}
        for name in ("unet", "decoder", "text_encoder"):
            self.network(name, 512, 1)
        config = {name: json.loads((self.folder / name / "config.json").read_text()) for name in ("unet", "vae")}
        self.unet, self.vae = Part(self._unet, config["unet"]), Part(None, config["vae"])
        self.vae.decode = self._decode
        self.pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=Part(self._text_encoder, {}),
            tokenizer=CLIPTokenizer.from_pretrained(self.folder / "tokenizer"),
            unet=self.unet,
            scheduler=PNDMScheduler.from_pretrained(self.folder / "scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def network(self, name: str, size: int, batch: int) -> Any:
        """The network for `batch` pictures of size x size, compiled when it is first asked for."""
        if (name, size, batch) not in self.compiled:
            model = self.core.read_model(self.folder / CONVERTED / f"{name}.xml")
            edge = size // 8
            shapes: dict[str, list[list[int]]] = {
                "unet": [[2 * batch, 4, edge, edge], [], [2 * batch, 77, 768]],
                "decoder": [[batch, 4, edge, edge]],
                "encoder": [[batch, 3, size, size]],
                "text_encoder": [[2 * batch, 77]],
            }
            model.reshape(dict(zip(model.inputs, shapes[name], strict=True)))
            self.compiled[name, size, batch] = self.core.compile_model(model, "CPU", SETTINGS)
        return self.compiled[name, size, batch]

    def run(self, name: str, size: int, batch: int, *given: Tensor) -> Tensor:
        return torch.from_numpy(self.network(name, size, batch)([value.numpy() for value in given])[0])

    def _unet(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, **_: object) -> tuple[Tensor]:
        text = encoder_hidden_states.float()
        return (self.run("unet", x.shape[-1] * 8, len(x) // 2, x.float(), t.float().reshape(()), text),)

    def _decode(self, x: Tensor, **_: object) -> tuple[Tensor]:
        return (self.run("decoder", x.shape[-1] * 8, len(x), x.float()),)

    def _text_encoder(self, ids: Tensor, **_: object) -> tuple[Tensor]:
        if len(ids) == 1:  # the pipeline asks for one text at a time
            return (self.run("text_encoder", 512, 1, torch.cat([ids, ids]))[:1],)
        return (self.run("text_encoder", 512, len(ids) // 2, ids),)

    def encode(self, size: int, batch: int) -> None:
        self.run("encoder", size, batch, pixels(size, batch))


class Part(SimpleNamespace):
    """Stands in the pipeline where it expects a network."""

    def __init__(self, call: Callable[..., tuple[Tensor]] | None, config: dict[str, Any]) -> None:
        super().__init__(call=call, config=Settings(config), dtype=torch.float32, device=torch.device("cpu"))

    def __call__(self, *given: Any, **named: Any) -> tuple[Tensor]:
        return self.call(*given, **named)


class Settings(SimpleNamespace):
    """A network's configuration: settings by name, those that are not there being None."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(**settings)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class Network(nn.Module):
    """A network whose call is written out, so that OpenVINO can follow it."""

    def __init__(self, network: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *given: Tensor) -> Tensor:
        return self.call(self.network, *given)


@torch.no_grad()
def convert(folder: Path) -> None:
    """Write the networks in OpenVINO's form, weights in float16, unless they are there. Takes 8 GiB."""
    program = Diffusers(folder)
    program.load()
    encoder = program.pipeline.text_encoder
    calls: dict[str, tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "text_encoder": (encoder, lambda text, ids: text(ids)[0], (torch.zeros(2, 77, dtype=torch.int64),)),
        "encoder": (program.vae, lambda vae, x: vae.encode(x, return_dict=False)[0].mean, (pixels(64, 1),)),
        "decoder": (program.vae, lambda vae, x: vae.decode(x, return_dict=False)[0], (latent(64, 1),)),
        "unet": (
            program.unet,
            lambda unet, x, t, text: unet(x, t, encoder_hidden_states=text, return_dict=False)[0],
            (torch.cat([latent(128, 1)] * 2), torch.tensor(981.0), text_embeddings(1)),
        ),
    }
    for name, (network, call, example) in calls.items():
        target = folder / CONVERTED / f"{name}.xml"
        if not target.is_file():
            model = openvino.convert_model(Network(network, call), example_input=example)
            openvino.save_model(model, target, compress_to_fp16=True)
