"""Deep features kept for a few steps: exact where nothing changed, and whole steps where they are due."""

from typing import Any, cast

import torch
from torch import Tensor

from diafano.networks.conditioning import Conditioning
from diafano.networks.unet import UNet, UNetConfig
from diafano.sampling.clock import Clock
from diafano.sampling.deep_cache import DeepCache, shallow_pass

CONFIG = UNetConfig(widths=(16, 32), layers=2, attention=(True, False), heads=(2, 2), text_width=24, groups=8)


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval()


def deep_cache(network: UNet, interval: int) -> tuple[DeepCache, Clock]:
    clock = Clock()
    return DeepCache(network, interval, clock), clock


def inputs(seed: int, batch: int = 2) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, 4, 8, 8, generator=generator)
    return latent, torch.full((batch,), 100.0 + seed), Conditioning(torch.randn(batch, 5, 24, generator=generator))


@torch.inference_mode()
def test_with_its_own_deep_features_the_shallow_pass_is_the_whole_one() -> None:
    network = unet()
    cached, clock = deep_cache(network, 2)
    whole = cached(*inputs(1))
    assert torch.equal(whole, network(*inputs(1)))
    clock.move_to(1)
    assert torch.equal(cached(*inputs(1)), whole)


@torch.inference_mode()
def test_between_whole_steps_only_the_finest_level_runs() -> None:
    network = unet()
    deep_calls = list[int]()
    cached, clock = deep_cache(network, 3)
    network.mid_block.register_forward_hook(lambda *_: deep_calls.append(clock.step))
    for step in range(7):
        clock.move_to(step)
        predicted = cached(*inputs(step))
        assert torch.equal(predicted, network(*inputs(step))) == (step % 3 == 0)
        deep_calls.pop()  # of the comparison
    assert deep_calls == [0, 3, 6]


@torch.inference_mode()
def test_two_calls_a_step_keep_their_features_apart() -> None:
    network = unet()
    cached, clock = deep_cache(network, 2)
    for clock.call, seed in enumerate((1, 2)):
        cached(*inputs(seed))
    clock.move_to(1)
    for clock.call, seed in enumerate((1, 2)):
        assert torch.equal(cached(*inputs(seed)), network(*inputs(seed)))


@torch.inference_mode()
def test_another_batch_size_runs_the_whole() -> None:
    network = unet()
    cached, clock = deep_cache(network, 4)
    cached(*inputs(1, batch=2))
    clock.move_to(1)
    assert torch.equal(cached(*inputs(2, batch=1)), network(*inputs(2, batch=1)))


@torch.inference_mode()
def test_leaves_no_hook_behind() -> None:
    network = unet()
    deep_cache(network, 2)[0](*inputs(1))
    assert not cast(Any, network).up_blocks[-1].resnets[-1]._forward_pre_hooks


@torch.inference_mode()
def test_the_deep_features_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    network, (latent, timestep, text) = unet(), inputs(1)
    deep = torch.randn(2, CONFIG.widths[0], 8, 8, generator=generator)
    assert not torch.allclose(shallow_pass(network, deep, latent, timestep, text), network(latent, timestep, text))
