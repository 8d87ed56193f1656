"""Blocks of our own making: read by the `gguf` package too, and nearer than its own."""

import gguf
import numpy as np
import pytest
import torch

from heddle.kernels.quant import QuantTensor
from heddle.weights.rounding import can_round, rounded

FORMATS = ("Q8_0", "Q4_1", "Q4_0")


def normal(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)) * 0.05


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(("format", "gain"), [("Q8_0", 0.95), ("Q4_1", 0.92), ("Q4_0", 0.96)])
def test_the_error_is_smaller_than_with_the_largest_numbers_scales(format: str, gain: float):
    exact = normal(200, 320)
    kind = gguf.GGMLQuantizationType[format]
    theirs = QuantTensor(format, torch.from_numpy(gguf.quants.quantize(exact.numpy(), kind)))
    ours = rounded(exact, format)
    assert error(ours.dequantize(), exact) < gain * error(theirs.dequantize(), exact)
    again = gguf.quants.dequantize(ours.data.numpy(), kind)
    np.testing.assert_array_equal(ours.dequantize().numpy(), again)


@pytest.mark.parametrize("format", FORMATS)
def test_every_block_is_at_least_as_near(format: str):
    exact = torch.cat([normal(50, 32), normal(50, 32).abs() + 1, -normal(50, 32).exp()])
    kind = gguf.GGMLQuantizationType[format]
    theirs = torch.from_numpy(
        gguf.quants.dequantize(gguf.quants.quantize(exact.numpy(), kind), kind)
    )
    ours = rounded(exact, format).dequantize()
    nearer = (ours - exact).square().sum(1) <= (theirs - exact).square().sum(1) * 1.02 + 1e-12
    assert nearer.float().mean() > 0.98


@pytest.mark.parametrize("format", FORMATS)
def test_blocks_without_spread(format: str):
    exact = torch.stack([torch.zeros(32), torch.full((32,), 0.25), torch.full((32,), -3e-9)])
    found = rounded(exact, format).dequantize()
    assert found.isfinite().all() and found[0].eq(0).all()
    torch.testing.assert_close(found[1], exact[1], rtol=1e-3, atol=0)
    assert found[2].abs().max() < 1e-7


@pytest.mark.parametrize("format", FORMATS)
def test_what_blocks_can_say_is_said_exactly(format: str):
    steps = torch.arange(32) % 16
    exact = {"Q8_0": (steps * 8 - 127), "Q4_1": steps, "Q4_0": steps - 8}[format][None] * 0.5
    assert torch.equal(rounded(exact, format).dequantize(), exact)


@pytest.mark.parametrize(
    ("shape", "fits"), [((4, 64), True), ((4, 48), False), ((64,), False), ((4, 0), False)]
)
def test_only_rows_of_whole_blocks_fit(shape: tuple[int, ...], fits: bool):
    assert can_round(shape) == fits
