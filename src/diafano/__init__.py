"""Stable Diffusion that you can see through.

    import diafano
    model = diafano.load()
    pictures = model.generate("two red apples on a blue background", seed=7)

Importing this package imports nothing else: torch comes with the first name that needs it. Where torch is not there
yet, its waiting threads are told to sleep, which on a busy machine is the difference between seconds and minutes: see
`engine.threads.wait_asleep`, and set OMP_WAIT_POLICY yourself for another choice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diafano.engine.threads import wait_asleep

if TYPE_CHECKING:
    from diafano.checkpoints.controlnet import load_controlnet
    from diafano.checkpoints.loading import EMBEDDED, load
    from diafano.checkpoints.tiny_decoder import load_tiny_decoder
    from diafano.checkpoints.upscaler import load_upscaler
    from diafano.errors import UserError, collect_notes
    from diafano.explain.preview import Preview
    from diafano.request.request import Request
    from diafano.sampling.control import Control
    from diafano.stable_diffusion import StableDiffusion

__version__ = "0.1.0"

__all__ = [
    "EMBEDDED",
    "Control",
    "Preview",
    "Request",
    "StableDiffusion",
    "UserError",
    "__version__",
    "collect_notes",
    "load",
    "load_controlnet",
    "load_tiny_decoder",
    "load_upscaler",
]

HOMES = {
    "Control": "diafano.sampling.control",
    "EMBEDDED": "diafano.checkpoints.loading",
    "Preview": "diafano.explain.preview",
    "Request": "diafano.request.request",
    "StableDiffusion": "diafano.stable_diffusion",
    "UserError": "diafano.errors",
    "collect_notes": "diafano.errors",
    "load": "diafano.checkpoints.loading",
    "load_controlnet": "diafano.checkpoints.controlnet",
    "load_tiny_decoder": "diafano.checkpoints.tiny_decoder",
    "load_upscaler": "diafano.checkpoints.upscaler",
}
"""Public name -> the module that defines it."""

wait_asleep()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module 'diafano' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
