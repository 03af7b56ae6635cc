"""A module that computes otherwise for a while: its `forward` replaced on the instance, never on the class.

torch's own `__call__`, hooks and all, finds the instance's `forward` before its class's. The rule: a module's `forward`
is replaced once at a time. Who finds it replaced leaves it, and looks at `is_replaced` before it relies on a layer's
own `forward`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


def is_replaced(module: nn.Module) -> bool:
    return "forward" in vars(module)


def replace_forward(module: nn.Module, forward: Forward) -> bool:
    """From now on the module computes by `forward`; False where it is replaced already, and stays so."""
    if is_replaced(module):
        return False
    vars(module)["forward"] = forward
    return True


@contextmanager
def replaced_forwards(pairs: Iterable[tuple[nn.Module, Forward]]) -> Iterator[None]:
    """Inside, each module computes by the `forward` that it comes with; afterwards by its class's again."""
    replaced: list[nn.Module] = []
    try:
        for module, forward in pairs:
            if not is_replaced(module):
                replaced.append(module)  # before it is, so that none is left behind by Ctrl-C in between
                replace_forward(module, forward)
        yield
    finally:
        for module in replaced:
            vars(module).pop("forward", None)
