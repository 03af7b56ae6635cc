"""The CPU engine: each operation, each block and whole networks against the plain ones in float32."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diafano.engine import bands, operations
from diafano.engine import build as library
from diafano.engine import fused as blocks
from diafano.engine import native_operations as by_library
from diafano.engine import torch_operations as by_torch
from diafano.engine.build import Tiles, available
from diafano.engine.fused import accelerated
from diafano.engine.precision import Upcast
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig, LatentDistribution
from diafano.networks.layers import Attention, ResidualBlock, SpatialTransformer, Upsample
from diafano.networks.unet import UNet, UNetConfig
from diafano.stable_diffusion import StableDiffusion

needs_engine = pytest.mark.skipif(not available(), reason="no AVX-512 BF16 and VBMI, or no C++ compiler")

ROUNDING = 2**-8
"""Largest relative error of rounding to bfloat16; its root mean square is 0.0017."""


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def with_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library multiplies as with AMX, its instructions done in plain C++."""
    made = library.loaded(Tiles.EMULATED)
    monkeypatch.setattr(by_library, "library", lambda: made)


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mostly products is left to torch."""
    monkeypatch.setattr(operations, "faster", lambda operation: by_torch)


@pytest.fixture
def by(request: pytest.FixtureRequest) -> None:
    if request.param != "vectors":
        request.getfixturevalue(f"with_{request.param}")


by_library_alone = pytest.mark.parametrize("by", ["vectors", "tiles"], indirect=True)
by_each = pytest.mark.parametrize("by", ["vectors", "tiles", "torch"], indirect=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative, in the root mean square."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def layer(made: nn.Module, seed: int = 1) -> Any:
    """Weights that no layer has from the start: norms' too are drawn by chance."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for weight in made.parameters():
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.dim() > 1 else 1.0)
    return cast(Any, made.bfloat16()).to(memory_format=torch.channels_last).eval()


def in_float32(module: nn.Module, *inputs: Tensor) -> Tensor:
    made: Tensor = module.float()(*(x.float() for x in inputs))
    module.bfloat16()
    return made


@needs_engine
@by_each
@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 2, 1), (3, 30, 17), (77, 96, 40), (300, 320, 100)])
def test_linear(by: None, rows: int, width: int, columns: int) -> None:
    linear, x, residual = layer(nn.Linear(width, columns)), random(2, rows, width), random(2, rows, columns, seed=2)
    assert isinstance(linear, nn.Linear)
    expected = in_float32(linear, x)
    assert distance(operations.linear(x, linear), expected) < ROUNDING
    assert distance(operations.linear(x, linear, residual), expected + residual) < ROUNDING


@needs_engine
@by_each
@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 2, 2), (9, 40, 34), (100, 64, 512)])
def test_geglu(by: None, rows: int, width: int, columns: int) -> None:
    linear, x = layer(nn.Linear(width, columns)), 2 * random(rows, width)
    assert isinstance(linear, nn.Linear)
    value, gate = in_float32(linear, x).chunk(2, dim=-1)
    assert distance(operations.geglu(x, linear), value * F.gelu(gate)) < ROUNDING


SIZES = [(1, 3, 5, 1, 1), (2, 5, 7, 9, 4), (1, 32, 33, 16, 16), (1, 40, 64, 33, 47), (2, 100, 36, 24, 30)]


@needs_engine
@by_each
@pytest.mark.parametrize(("batch", "before", "after", "height", "width"), SIZES)
def test_convolution(by: None, batch: int, before: int, after: int, height: int, width: int) -> None:
    conv, x = layer(nn.Conv2d(before, after, 3, padding=1)), random(batch, before, height, width)
    assert isinstance(conv, nn.Conv2d)
    added, residual = random(batch, after, seed=2), random(batch, after, height, width, seed=3)
    expected = in_float32(conv, x)
    scale = (
        expected.norm() / (expected - cast(Tensor, conv.bias).float()[:, None, None]).norm()
    )  # the bias has no error
    exact = operations.convolution(x, conv, dtype=torch.float32)
    assert distance(exact, expected) * scale < 2 * ROUNDING
    assert distance(operations.convolution(x.float(), conv, dtype=torch.float32), exact) == 0.0
    assert distance(operations.convolution(x, conv), exact) < ROUNDING
    with_all = operations.convolution(x, conv, added, residual, dtype=torch.float32)
    assert distance(with_all, exact + added[:, :, None, None] + residual) < 1e-6


@needs_engine
@by_each
@pytest.mark.parametrize(("channels", "height", "width"), [(5, 3, 4), (48, 20, 20), (288, 9, 16)])
def test_convolution_of_a_map_of_twice_the_size(by: None, channels: int, height: int, width: int) -> None:
    conv, x = layer(nn.Conv2d(channels, 33, 3, padding=1)), random(2, channels, height, width)
    assert isinstance(conv, nn.Conv2d)
    expected = in_float32(conv, F.interpolate(x, scale_factor=2.0, mode="nearest"))
    exact = operations.convolution(x, conv, upsampled=True, dtype=torch.float32)
    assert distance(exact, expected) < 2 * ROUNDING


@needs_engine
def test_maps_are_joined() -> None:
    x, other = random(2, 7, 5, 3), random(2, 40, 5, 3, seed=1).to(memory_format=torch.channels_last)
    assert torch.equal(operations.joined(x, other), torch.cat([x, other], dim=1))


@needs_engine
@by_each
def test_convolution_of_every_shape_of_work(by: None) -> None:
    """Few and many tiles, one and several panels of results, more kernels than are transformed at once."""
    for before, after, size, twice in [(1024, 1056, 4, False), (512, 1088, 17, True), (16, 16, 70, False)]:
        conv, x = layer(nn.Conv2d(before, after, 3, padding=1, bias=False)), random(1, before, size, size)
        assert isinstance(conv, nn.Conv2d)
        expected = in_float32(conv, F.interpolate(x, scale_factor=2.0, mode="nearest") if twice else x)
        assert distance(operations.convolution(x, conv, upsampled=twice), expected) < 2 * ROUNDING


@needs_engine
@pytest.mark.parametrize(
    ("batch", "before", "after", "height", "width"),
    [(1, 32, 33, 40, 48), (2, 300, 70, 27, 30), (1, 64, 40, 97, 101), (1, 640, 64, 39, 33)],
    ids=["a vector of channels", "two of them added as integers", "two bands of tiles", "three shares of channels"],
)
def test_convolution_by_large_tiles(batch: int, before: int, after: int, height: int, width: int) -> None:
    conv, x = layer(nn.Conv2d(before, after, 3, padding=1)), F.silu(random(batch, before, height, width))
    assert isinstance(conv, nn.Conv2d)
    added, residual = random(batch, after, seed=2), random(batch, after, height, width, seed=3)
    without_bias = in_float32(conv, x) - cast(Tensor, conv.bias).float()[:, None, None]
    exact = operations.convolution(x, conv, dtype=torch.float32)
    if library.multiplies_by() == library.Tiles.NONE:  # otherwise these are the small tiles, whose error is 0.0037
        assert distance(exact - cast(Tensor, conv.bias).float()[:, None, None], without_bias) < 0.003
    assert distance(operations.convolution(x.float(), conv, dtype=torch.float32), exact) == 0.0
    assert distance(operations.convolution(x, conv), exact) < ROUNDING
    with_all = operations.convolution(x, conv, added, residual, dtype=torch.float32)
    assert distance(with_all, exact + added[:, :, None, None] + residual) < 1e-6


@needs_engine
def test_no_sum_of_a_convolution_overflows() -> None:
    """Inputs and kernels that make one of a large tile's products as long as it can be, in all channels or in one."""
    a, b = 0.625, 1.5
    inputs = torch.tensor(
        [
            [a * a * b * b, 0, -a * a - b * b, 0, 1, 0],
            *([0, -own * other**2, -(other**2), own, 1, 0] for own, other in ((a, b), (-a, b), (b, a), (-b, a))),
            [0, a * a * b * b, 0, -a * a - b * b, 0, 1],
        ]
    )
    kernels = torch.tensor([[1, 0, 0], *([1, point, point**2] for point in (a, -a, b, -b)), [0, 0, 1]])
    x = torch.zeros(36, 256, 12, 12)
    x[:, :, 3:9, 3:9] = torch.einsum("pi,qj->pqij", inputs, inputs).flatten(0, 1)[:, None]
    conv = layer(nn.Conv2d(256, 36, 3, padding=1, bias=False))
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(torch.einsum("pi,qj->pqij", kernels, kernels).flatten(0, 1)[:, None])
    alone = torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=1)
    for values in x, -x, alone:
        found = operations.convolution(values.to(memory_format=torch.channels_last), conv, dtype=torch.float32)
        assert distance(found, in_float32(conv, values)) < 2 * ROUNDING


@needs_engine
def test_values_of_every_size_pass_a_convolution() -> None:
    """Nothing at all, values far from one, and what is not a number, each beside ordinary values."""
    conv, x = layer(nn.Conv2d(64, 32, 3, padding=1, bias=False)), random(4, 64, 32, 32)
    assert isinstance(conv, nn.Conv2d)
    x[1], x[2, :, :16] = 0, 2.0**40 * x[2, :, :16]
    x[3, 5, 20, 20] = torch.nan
    conv.weight[3] *= 2.0**-30
    conv.weight[4] = 0
    found, expected = operations.convolution(x, conv, dtype=torch.float32), in_float32(conv, x)
    for channel in 0, 3:
        assert distance(found[0, channel], expected[0, channel]) < 2 * ROUNDING
        assert distance(found[2, channel, 20:], expected[2, channel, 20:]) < 2 * ROUNDING
        assert distance(found[2, channel, :12], expected[2, channel, :12]) < 2 * ROUNDING
    assert not found[1].any() and not found[[0, 2]][:, 4].any()
    assert found[3].isnan()[expected[3].isnan()].all() and not found[:3].isnan().any()
    conv.weight[5, 6, 1, 1] = torch.inf
    assert not operations.convolution(x, conv)[0, 5].isfinite().any()


@needs_engine
@by_each
@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "width"),
    [
        (1, 1, 1, 1, 2),
        (2, 3, 70, 77, 40),
        (1, 2, 65, 1100, 8),
        (1, 8, 40, 600, 160),
        (2, 1, 64, 64, 512),
        (1, 2, 9, 33, 20),
    ],
)
def test_attention(by: None, batch: int, heads: int, queries: int, keys: int, width: int) -> None:
    query, key, value = (
        random(batch, count, heads * width, seed=count + i) for i, count in enumerate((queries, keys, keys))
    )
    query = 3 * query  # so that some of the scores stand out

    def split(tokens: Tensor) -> Tensor:
        return tokens.float().unflatten(-1, (heads, width)).transpose(1, 2)

    expected = F.scaled_dot_product_attention(split(query), split(key), split(value)).transpose(1, 2).flatten(2)
    assert distance(operations.attention(query, key, value, heads), expected) < 2 * ROUNDING


@needs_engine
@by_each
def test_attention_of_scores_that_exceed_every_exponential(by: None) -> None:
    query, key, value = 300 * random(1, 20, 32), 300 * random(1, 700, 32, seed=1), random(1, 700, 32, seed=2)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    assert distance(operations.attention(query, key, value, 1), expected) < 2 * ROUNDING


@needs_engine
@pytest.mark.parametrize(("channels", "groups", "size"), [(6, 3, 1), (40, 4, 9), (96, 32, 16), (320, 32, 5)])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(channels: int, groups: int, size: int, silu: bool) -> None:
    norm, x = layer(nn.GroupNorm(groups, channels)), 3 + random(2, channels, size, size + 1)
    assert isinstance(norm, nn.GroupNorm)
    expected = in_float32(norm, x)
    expected = F.silu(expected) if silu else expected
    assert distance(operations.group_norm(x, norm, silu=silu), expected) < ROUNDING
    exact = operations.group_norm(x.float(), norm, silu=silu, dtype=torch.float32)
    assert distance(exact, expected) < 1e-4


@needs_engine
@pytest.mark.parametrize("width", [2, 40, 333])
def test_layer_norm(width: int) -> None:
    norm, x = layer(nn.LayerNorm(width)), 3 + random(50, width)
    assert isinstance(norm, nn.LayerNorm)
    assert distance(operations.layer_norm(x, norm), in_float32(norm, x)) < ROUNDING


BLOCKS = {
    "residual": (lambda: ResidualBlock(64, 64, groups=8, eps=1e-5, time_width=32), (1, 64, 12, 20), (1, 32)),
    "residual with shortcut": (lambda: ResidualBlock(32, 64, groups=8, eps=1e-5), (2, 32, 9, 9)),
    "transformer": (
        lambda: SpatialTransformer(64, 4, 32, groups=8, linear_projection=False),
        *((2, 64, 8, 10), (2, 77, 32)),
    ),
    "transformer of v2": (
        lambda: SpatialTransformer(64, 2, 32, groups=8, linear_projection=True),
        *((1, 64, 16, 16), (1, 77, 32)),
    ),
    "upsample": (lambda: Upsample(32), (2, 32, 10, 6)),
}


@needs_engine
@by_library_alone
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_as_near_to_float32_as_the_plain_one(by: None, name: str) -> None:
    make, *shapes = cast(Any, BLOCKS[name])
    block, inputs = layer(make()), [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected, plain = in_float32(block, *inputs), block(*inputs)
    with accelerated(block):
        assert "forward" in vars(block)
        found = block(*inputs)
    assert not torch.equal(found, plain)
    assert distance(found, expected) < max(1.3 * distance(plain, expected), 3 * ROUNDING)


def networks() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    config = UNetConfig(widths=(64, 96), layers=1, attention=(True, True), heads=(4, 4), text_width=32, groups=8)
    autoencoder = Autoencoder(AutoencoderConfig(widths=(32, 64), layers=1, groups=8))
    timestep = torch.tensor([500.0, 500.0])
    return {
        "unet": (layer(UNet(config)), (random(2, 4, 18, 14), timestep, random(2, 77, 32, seed=1))),
        "encoder": (layer(autoencoder.encoder), (random(1, 3, 32, 48),)),
        "decoder": (layer(autoencoder.decoder), (random(1, 4, 18, 14),)),
    }


@needs_engine
@by_library_alone
@pytest.mark.parametrize("name", networks())
def test_a_network_is_as_near_to_float32_as_the_plain_one(by: None, name: str) -> None:
    network, inputs = networks()[name]
    expected, plain = in_float32(network, *inputs), network(*inputs)
    with accelerated(network):
        found = network(*inputs)
    assert not torch.equal(found, plain)
    assert distance(found, expected) < 1.15 * distance(plain, expected)
    assert torch.equal(network(*inputs), plain)
    assert not any("forward" in vars(module) for module in network.modules())


@needs_engine
@pytest.mark.usefixtures("with_torch")
@pytest.mark.parametrize("name", networks())
def test_a_network_whose_products_are_torchs_is_as_near_to_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called, call = set[str](), by_library._call
    monkeypatch.setattr(by_library, "_call", lambda name, *rest: (called.add(name), call(name, *rest)))
    network, inputs = networks()[name]
    expected, plain = in_float32(network, *inputs), network(*inputs)
    with accelerated(network):
        assert distance(network(*inputs), expected) < 1.15 * distance(plain, expected)
    assert called <= {"group_norm", "layer_norm", "join"}


@needs_engine
def test_changed_weights_and_texts_are_noticed() -> None:
    network, (latent, timestep, text) = networks()["unet"]
    with accelerated(network):
        before = network(latent, timestep, text)
        other = network(latent, timestep, random(2, 77, 32, seed=9))
        assert torch.equal(network(latent, timestep, text), before)
        for weight in network.parameters():
            weight.data.mul_(1.125)
        changed = network(latent, timestep, text.clone())
    assert not torch.equal(other, before)
    assert distance(changed, network(latent, timestep, text)) < 0.05 < distance(before, changed)


@needs_engine
def test_threads_and_work_side_by_side_change_nothing() -> None:
    network, inputs = networks()["unet"]
    threads = torch.get_num_threads()
    try:
        with accelerated(network):
            expected = network(*inputs)
            for count in (1, 3, 2):
                torch.set_num_threads(count)
                assert torch.equal(network(*inputs), expected)
    finally:
        torch.set_num_threads(threads)


@needs_engine
def test_what_is_unusual_computes_plainly() -> None:
    block, x = layer(ResidualBlock(32, 32, groups=8, eps=1e-5)), random(1, 32, 8, 8)
    seen: list[Tensor] = []
    handle = block.norm2.register_forward_hook(lambda _, __, out: seen.append(out))
    with accelerated(block):
        block(x)
    assert len(seen) == 1
    handle.remove()

    block.conv1.padding_mode = "circular"
    plain = block(x)
    with accelerated(block):
        assert torch.equal(block(x), plain)
    block.conv1.padding_mode = "zeros"

    block.float()
    with accelerated(block):
        assert torch.equal(block(x.float()), block(x.float()))
        assert "forward" not in vars(block)

    assert not blocks.is_plain(layer(Attention(6, 2)))  # heads of width 3: not made of pairs


@needs_engine
def test_gradients_go_the_plain_way() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        block = layer(ResidualBlock(32, 32, groups=8, eps=1e-5))
        x = random(1, 32, 8, 8).requires_grad_()
        with accelerated(block):
            block(x).sum().backward()
            block(x.detach()).sum().backward()
        assert x.grad is not None and block.conv1.weight.grad is not None


@needs_engine
def test_what_guidance_computes_twice_alike_is_the_same() -> None:
    network, (latent, timestep, text) = networks()["unet"]
    with accelerated(network):
        apart = torch.cat(
            [
                network(one, timestep[:1], words)
                for one, words in zip((latent[:1], latent[:1]), text.split(1), strict=True)
            ]
        )
        together = network(latent[:1].repeat(2, 1, 1, 1), timestep, text)
        if library.has_amx():  # there torch's own products may be the faster ones, and round a batch of two otherwise
            assert (together - apart).norm() < 0.01 * apart.norm()
        else:
            assert torch.equal(together, apart)
        assert not torch.equal(network(latent, timestep, text), together)


@needs_engine
def test_a_picture_is_drawn_by_the_engine(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, call = deepcopy(tiny_model), list[str](), by_library._call
    monkeypatch.setattr(by_library, "_call", lambda name, *rest: (calls.append(name), call(name, *rest)))
    picture = model.generate("a penguin", seed=1, steps=2)[0]
    assert not calls  # in float32 there is nothing for it to do
    everything = {"linear", "convolution", "attention", "group_norm", "layer_norm", "join"}
    for network, image, expected in [
        (model.unet, None, everything),
        (model.autoencoder, None, everything - {"layer_norm", "join"}),
        (model.autoencoder, picture, everything - {"layer_norm", "join"}),
    ]:
        network.bfloat16()
        try:
            model.generate("a penguin", image=image, seed=1, steps=2)
        finally:
            network.float()
        assert set(calls) == expected
        calls.clear()


@needs_engine
@pytest.mark.parametrize("largest_kept", [0, 2**30], ids=["twice computed", "kept"])
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_pictures_in_bands_are_as_near_to_float32(way: str, largest_kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the rows beside a band are missing nor is the map's edge, where there are none, another one."""
    monkeypatch.setattr(bands, "BAND_VALUES", 3000)
    monkeypatch.setattr(bands, "LARGEST_KEPT", largest_kept)
    autoencoder = layer(Autoencoder(AutoencoderConfig(widths=(32, 64, 64), layers=1, groups=8)))
    x = random(1, 4, 13, 15) if way == "decode" else random(1, 3, 52, 60)

    def computed(how: object, x: Tensor) -> Tensor:
        made = getattr(how, way)(*((autoencoder, x) if how is bands else (x,)))
        assert isinstance(made, Tensor | LatentDistribution)
        return made.mean if isinstance(made, LatentDistribution) else made

    calls, call = list[str](), by_library._call
    monkeypatch.setattr(by_library, "_call", lambda name, *rest: (calls.append(name), call(name, *rest)))
    plain, in_plain_bands = computed(autoencoder, x), computed(bands, x)
    assert not calls
    with accelerated(autoencoder):
        found = computed(bands, x)
        assert calls.count("convolution") > 30 and "attention" in calls
        calls.clear()
        with Upcast():  # as a stage that gave NaN is computed again
            exact = computed(bands, x.float())
        assert not calls
    assert distance(exact, computed(autoencoder.float(), x.float())) < 1e-5
    assert not torch.equal(found, in_plain_bands)
    assert distance(found, exact) < 1.15 * distance(plain, exact)


@needs_engine
def test_memory_is_kept_for_who_draws_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(blocks, "keep_freed_memory", lambda: kept.append(True))
    network, _ = networks()["decoder"]
    with accelerated(network):
        assert kept == [True]
    with accelerated(network.float()):
        assert kept == [True]


def test_without_the_library_all_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = networks()["unet"]
    plain = network(*inputs)
    monkeypatch.setattr(blocks, "available", lambda: False)
    with accelerated(network):
        assert torch.equal(network(*inputs), plain)
