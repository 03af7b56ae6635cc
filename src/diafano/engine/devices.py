"""Where the arithmetic runs and in which number format: what ``"auto"`` stands for; modules without weights."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diafano.engine.memory import MappedFiles
from diafano.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The number formats that weights are kept in, by the names that users type."""
REASONS = {
    torch.float32: "this processor has no instructions for bfloat16, in which it would be slower",
    torch.bfloat16: "this processor has instructions for it; float32 is slower and takes twice the memory",
    torch.float16: "the GPU multiplies it fastest; float32 is slower and takes twice the memory",
}
"""Why "auto" stands for that number format where the model is big."""
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

SMALL_MODEL = 100_000_000
"""Parameters below which float32 is fast enough everywhere, and gives the same picture on every device."""


def find_device(name: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA if there is a GPU, then Apple's MPS, then the CPU; otherwise the device of that name."""
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise UserError(f"there is no device {str(device)!r} on this machine: use auto or cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(
            f"there is no device {str(device)!r}: this machine's last is cuda:{torch.cuda.device_count() - 1}"
        )
    return device


def find_dtype(name: str | torch.dtype, device: torch.device, parameters: int) -> torch.dtype:
    """``"auto"``: float32 for small models; for big ones float16 on a GPU, bfloat16 on a CPU that multiplies it.

    A CPU never gets float16: it is slower there than float32. `parameters` is the model's whole number of them. What is
    chosen for a big model, and why, goes to the log "diafano" (INFO), which the commands show.
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name == "auto":
        if parameters < SMALL_MODEL:
            return torch.float32
        chosen = torch.float16
        if device.type == "cpu":
            chosen = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
        short = str(chosen).removeprefix("torch.")
        logging.getLogger("diafano").info("dtype auto is %s here: %s", short, REASONS[chosen])
        return chosen
    dtype = DTYPES.get(SHORT_NAMES.get(name, name))
    if dtype is None:
        raise UserError(f"unknown dtype {name!r}: use auto, {', '.join(DTYPES)}")
    return dtype


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AMX or AVX-512 BF16); without, it is slower."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU's tensor on the device, without waiting there for what the device still has to do.

    A GPU works through what it is told while the CPU goes on telling; a copy from ordinary memory would wait for it.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fastest_layout(module: nn.Module, dtype: torch.dtype) -> torch.memory_format:
    """In which order a convolution's weights are fastest in memory; small float32 ones on a CPU gain nothing."""
    half = dtype in (torch.float16, torch.bfloat16)
    return torch.channels_last if half and isinstance(module, nn.Conv2d) else torch.preserve_format


def to_channels_last(*networks: nn.Module) -> None:
    """Weights that still lie as in their file get their `fastest_layout`, and the file's pages are let go."""
    files: MappedFiles | None = None
    with torch.inference_mode(False):  # else they could not be trained any more
        for module in (module for network in networks for module in network.modules()):
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor) or weight.ndim != 4:
                continue
            layout = fastest_layout(module, weight.dtype)
            if layout == torch.preserve_format or weight.is_contiguous(memory_format=layout):
                continue
            stored = weight.data
            weight.data = stored.contiguous(memory_format=layout)
            if stored.device.type == "cpu":
                files = MappedFiles() if files is None else files
                files.forget(stored.data_ptr(), stored.nbytes)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules built inside have the shapes of their parameters but no memory for them (the meta device).

    For counting parameters, and for loading, where the stored weights take the place of the missing ones.
    """
    with _OnMeta():
        yield


class _OnMeta(TorchFunctionMode):
    """Puts new tensors onto the meta device and leaves out the filling of them.

    There is nothing to fill there, but the first normal_ makes torch import its compiler and sympy, which takes as long
    as importing torch itself. One mode for both, because each is asked about every function of torch.
    """

    MAKING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace, torch.tensor)
    FILLING = (Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.FILLING or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        kwargs = dict(kwargs or {})
        if func in self.MAKING and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
