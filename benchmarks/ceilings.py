"""What this machine can reach at best, and how much arithmetic a step is: `ceilings.py SIZExBATCH...` prints JSON.

The rates are those of torch's own bfloat16 convolutions and products, the shapes being a UNet's at 512x512. A step's
arithmetic is counted on the network itself, without running it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

from diafano.engine.memory import keep_freed_memory
from diafano.engine.threads import wait_asleep

wait_asleep()
keep_freed_memory()

import torch  # noqa: E402 (OpenMP reads its settings when torch is imported)
import torch.nn.functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from diafano.engine.devices import on_meta  # noqa: E402
from diafano.networks.unet import UNet, UNetConfig  # noqa: E402

CHANNELS = ((320, 64), (640, 32), (1280, 16))
"""Channels and edge of the UNet's maps."""
SECONDS = 0.7
"""Of repeating each product."""


def rate(flops: float, product: Callable[[], object]) -> float:
    """FLOP/s: the median of as many runs as fit into `SECONDS`."""
    product()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        before = time.perf_counter()
        product()
        times.append(time.perf_counter() - before)
    return flops / statistics.median(times)


@torch.inference_mode()
def rates(dtype: torch.dtype) -> dict[str, float]:
    found = {}
    for channels, edge in CHANNELS:
        x = torch.randn(2, channels, edge, edge, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        flops = 2.0 * 9 * channels**2 * edge**2 * 2
        name = f"convolution, {channels} channels, {edge}x{edge}"
        found[name] = rate(flops, lambda x=x, kernel=kernel: F.conv2d(x, kernel, padding=1))
        tokens, weight = (
            torch.randn(2 * edge**2, channels, dtype=dtype),
            torch.randn(8 * channels, channels, dtype=dtype),
        )
        flops = 2.0 * 2 * edge**2 * 8 * channels**2
        found[f"linear, {2 * edge**2} tokens, {channels} to {8 * channels}"] = rate(
            flops, lambda tokens=tokens, weight=weight: F.linear(tokens, weight)
        )
    return found


def step_flops(size: int, batch: int) -> float:
    """FLOP of a guided step of Stable Diffusion 1: two evaluations for each picture."""
    with on_meta():
        unet = UNet(UNetConfig())
        latent = torch.empty(2 * batch, 4, size // 8, size // 8)
        given = latent, torch.empty(2 * batch), torch.empty(2 * batch, 77, 768)
    with FlopCounterMode(display=False) as counted:
        unet(*given)
    return float(counted.get_total_flops())


def main() -> None:
    shapes = [tuple(map(int, shape.split("x"))) for shape in sys.argv[1:]]
    flops = {f"{size}x{batch}": step_flops(size, batch) for size, batch in shapes}
    print(json.dumps({"bf16": rates(torch.bfloat16), "fp32": rates(torch.float32), "step": flops}))


if __name__ == "__main__":
    main()
