"""NaN and infinity in half precision: noticed at the stage that made them, and that stage alone computed again.

float16 ends at 65504. Some networks go beyond for some inputs, v1's decoder among them, and from there on everything is
infinite or NaN: a black picture. bfloat16 has float32's range, but less of it is left after a LoRA that is too strong.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diafano.errors import UserError, note
from diafano.networks.conditioning import Conditioning
from diafano.networks.tileable import eager

HALF = (torch.float16, torch.bfloat16)


class Upcast(TorchFunctionMode):
    """Inside it, networks whose weights are half precision compute in float32 if what they are given is float32.

    A weight is converted where it is used, and forgotten. So this takes no second copy of the network, changes nothing
    in it, and concerns no other thread.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # a property, such as shape
            return func(*args, **(kwargs or {}))
        return func(*map(_raised, args), **{name: _raised(value) for name, value in (kwargs or {}).items()})


def _raised(value: Any) -> Any:
    return value.float() if isinstance(value, nn.Parameter) and value.dtype in HALF else value


Made = TypeVar("Made", Tensor, Conditioning)


def is_finite(values: Tensor | Conditioning) -> bool:
    """Whether none is NaN or infinite. On a GPU, the program waits here until they are computed."""
    tensors = [values] if isinstance(values, Tensor) else [values.tokens, values.pooled]
    return all(bool(torch.isfinite(one).all()) for one in tensors if one is not None)


class NanGuard:
    """Runs a stage in its number format, and again in float32 where that gives NaN or infinity."""

    def __init__(self, stage: str) -> None:
        """`stage` is what the user is told that it is, once."""
        self.stage = stage
        self._told = False

    def __call__(self, compute: Callable[[torch.dtype], Made], dtype: torch.dtype) -> Made:
        """``compute(dtype)``, which rounds to `dtype` what it is given and calls the networks with it.

        Raises UserError where float32 is no better: then it is the weights, or what is given.
        """
        result = compute(dtype)
        if is_finite(result):
            return result
        if dtype in HALF:
            with eager(), Upcast():
                result = compute(torch.float32)
            if is_finite(result):
                self._tell(dtype)
                return result
        raise UserError(
            f"the {self.stage} gives NaN or infinity, {'even ' if dtype in HALF else ''}in float32: a weight of the"
            " model is damaged, or a LoRA, the guidance or an option of the sampler is too strong"
        )

    def _tell(self, dtype: torch.dtype) -> None:
        if not self._told:
            note(
                f"the {self.stage} gave NaN or infinity in {str(dtype).removeprefix('torch.')} and was run again in"
                " float32: a dtype of float32, or bfloat16, spares the first try"
            )
        self._told = True


def run_with_nan_guard(run: Callable[..., Tensor], noise_source: Callable[[], Any], device: torch.device) -> Tensor:
    """``run(noise_source=..., nan_guard=...)``: the latent at the end of a run, whose UNet is called through the guard.

    `noise_source` makes a source of noise that begins anew, one for each run.

    Looking at a result makes the host wait for the device. A CPU has no wait; elsewhere the run goes unwatched and is
    looked at once, at its end, since NaN stays NaN from step to step. If there is any, the run starts again, watched.
    """
    if device.type != "cpu":
        latent = run(noise_source=noise_source(), nan_guard=None)
        if is_finite(latent):
            return latent
    return run(noise_source=noise_source(), nan_guard=NanGuard("UNet"))
