"""The programs that `peers.py` measures, each behind the same few methods: diafano and its peers.

A program holds a whole Stable Diffusion 1 model, a diffusers folder in float16, in the number format that it computes
in. Its module imports what it needs and `load` reads the weights, so that each can be timed by itself. Then each method
does its work once, with the inputs of `inputs.py`:

    step(size, batch) -> seconds     one guided step: the UNet on twice the batch, and the mixing of its two answers
    decode(size, batch)              latents -> pixels
    encode(size, batch)              pixels -> latent distribution
    text(size, batch)                two texts -> embeddings, whatever the size and batch
    picture(size, batch, steps)      prompt -> picture
    predictions(size) -> tensors     the guided noise at each of `SIGMAS`

What a program cannot do (stable-diffusion.cpp draws whole pictures only) it has no method for.
"""

from typing import NamedTuple

PROMPT, NEGATIVE, GUIDANCE, SEED = "a red apple on the left of a penguin", "blue", 7.5, 7
SIGMAS = (14.6, 3.0, 0.8)
"""Noise levels at which the predictions are compared: the run's begin, its middle and its last third."""


class Listed(NamedTuple):
    module: str
    """Of this package."""
    name: str
    """The class there; it is made with the model's folder and has the methods above."""
    needs: str | None = None
    """A package beyond those of the project's own environment: `make peers` puts it into a folder of its own."""


PROGRAMS = {
    "diafano": Listed("with_diafano", "Diafano"),
    "diafano fp32": Listed("with_diafano", "DiafanoFloat32"),
    "diffusers fp32": Listed("with_diffusers", "Diffusers", "diffusers"),
    "diffusers bf16": Listed("with_diffusers", "DiffusersBfloat16", "diffusers"),
    "diffusers compiled": Listed("with_diffusers", "DiffusersCompiled", "diffusers"),
    "OpenVINO bf16": Listed("with_openvino", "OpenVINO", "openvino"),
    "stable-diffusion.cpp": Listed("with_stable_diffusion_cpp", "StableDiffusionCpp", "stable_diffusion_cpp"),
}
"""Name in tables and on the command line -> program."""
