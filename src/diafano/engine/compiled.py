"""A UNet compiled by torch for its device; on a GPU its kernels are fused and started together, as one CUDA graph.

What is compiled is kept in a folder, so that the next process only reads it.
"""

import os
import shutil
import sys
from importlib.util import find_spec

import torch
from torch import nn

from diafano.engine.build import available
from diafano.engine.devices import to_channels_last
from diafano.errors import UserError
from diafano.files import cache_folder

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that names torch's folder for compiled code. By default it is a temporary one."""


def compile_network(network: nn.Module) -> None:
    """Compile the network in its place; the work is done at its first call with inputs of each shape.

    Its weights, their names and what it computes stay, up to rounding. Raises UserError where something is missing
    that torch compiles with.
    """
    to_channels_last(network)
    weight = next(network.parameters())
    device = weight.device.type
    _check_tools(device)
    if weight.dtype == torch.bfloat16 and device == "cpu" and available():
        raise UserError(
            "this processor has an engine of diafano's own, which is faster than what torch compiles:"
            " leave --compile out"
        )
    os.environ.setdefault(CACHE, str(cache_folder("compiled")))
    if device != "cuda":
        network.compile(dynamic=False)
        return
    # Tries the kernels that there are for each convolution and product and takes the fastest; it also records CUDA
    # graphs, and records them anew when weights move.
    torch.backends.cudnn.benchmark = True
    network.compile(mode="max-autotune", dynamic=False)


def _check_tools(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UserError(f"torch compiles for a CPU and for CUDA, not for {device}: leave --compile out")
    if device == "cuda" and find_spec("triton") is None:
        raise UserError("compiling for a GPU needs Triton: pip install triton, or leave --compile out")
    compilers = [os.environ.get("CXX"), *(["cl"] if sys.platform == "win32" else ["g++", "clang++", "c++"])]
    if device == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise UserError("compiling for a CPU needs a C++ compiler (Debian: apt install g++): leave --compile out")
