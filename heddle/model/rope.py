"""Rotary position embedding: angles from positions, and the rotation of queries and keys.

Source: Su et al. 2021 (arXiv:2104.09864), in the half-split form of Hugging Face's Llama;
    stretchings as
`transformers.modeling_rope_utils` defines them (linear; Llama 3.1; YaRN, Peng et al. 2023,
arXiv:2309.00071).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from heddle.model.config import RopeConfig


class Angles(NamedTuple):
    """Cosines and sines of each token's rotation, broadcast over heads."""

    cos_T1C: Tensor
    sin_T1C: Tensor

    def rows(self, rows: Tensor) -> "Angles":
        """Return the angles of some tokens."""
        return Angles(self.cos_T1C[rows], self.sin_T1C[rows])


class Rope(nn.Module):
    """Turns positions into `Angles`; holds the C/2 inverse wavelengths in radians per token."""

    frequencies: Tensor

    def __init__(self, config: RopeConfig, *, head_width: int):
        super().__init__()
        frequencies, self.magnitude = inverse_wavelengths(config, head_width=head_width)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, position_T: Tensor, dtype: torch.dtype) -> Angles:
        return angles_at(position_T, self.frequencies, dtype, magnitude=self.magnitude)


def angles_at(
    position_T: Tensor, frequencies: Tensor, dtype: torch.dtype, *, magnitude: float = 1.0
) -> Angles:
    """Return the angles of positions, which may be differences or lie between tokens."""
    angle_TC = torch.outer(position_T.float(), frequencies).repeat(1, 2)
    cos_TC, sin_TC = angle_TC.cos() * magnitude, angle_TC.sin() * magnitude
    sin_TC[:, : frequencies.numel()].neg_()  # so that `rotate` needs one product less
    return Angles(cos_TC.to(dtype).unsqueeze(1), sin_TC.to(dtype).unsqueeze(1))


def rotate(x_TXC: Tensor, angles: Angles) -> Tensor:
    """Rotate every head by its token's angles: each channel pairs with the one half a head away."""
    swapped_TXC = x_TXC.roll(x_TXC.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_TXC * angles.cos_T1C, swapped_TXC, angles.sin_T1C)


def moved(x_TXC: Tensor, tokens_T: Tensor, frequencies: Tensor) -> Tensor:
    """Return rotated queries or keys as they would be so many tokens further on."""
    return rotate(x_TXC, angles_at(tokens_T, frequencies, x_TXC.dtype))


def inverse_wavelengths(config: RopeConfig, *, head_width: int) -> tuple[Tensor, float]:
    """Return the C/2 rotation speeds and the factor that YaRN puts on queries and keys (else 1)."""
    # On the CPU even while a network is built on the meta device: these are values, not weights.
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
    plain = 1.0 / config.base**exponents
    if config.kind == "linear":
        return plain / config.factor, 1.0
    if config.kind == "llama3":
        return _llama3(plain, config), 1.0
    if config.kind == "yarn":
        return _yarn(plain, config, head_width=head_width)
    return plain, 1.0


def _llama3(plain: Tensor, config: RopeConfig) -> Tensor:
    """Slow the long waves, keep the short ones, blend between (Llama 3.1 reference)."""
    assert config.original_context_length is not None, "RopeConfig has checked this"
    waves_in_context = config.original_context_length * plain / (2 * math.pi)
    span = config.high_freq_factor - config.low_freq_factor
    keep = ((waves_in_context - config.low_freq_factor) / span).clamp(0, 1)
    return torch.lerp(plain / config.factor, plain, keep)


def _yarn(plain: Tensor, config: RopeConfig, *, head_width: int) -> tuple[Tensor, float]:
    """Blend by how often a channel turns in the original context (arXiv:2309.00071, 3.2)."""
    original_length = config.original_context_length
    assert original_length is not None, "RopeConfig has checked this"

    def channel_with(turns: float) -> float:
        length = original_length / (turns * 2 * math.pi)
        return head_width * math.log(length) / (2 * math.log(config.base))

    low = max(math.floor(channel_with(config.beta_fast)), 0)
    high = min(math.ceil(channel_with(config.beta_slow)), head_width - 1)
    ramp = (torch.arange(head_width // 2, device="cpu") - low) / max(high - low, 0.001)
    magnitude = config.attention_factor
    if magnitude is None:
        magnitude = 0.1 * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0
    return torch.lerp(plain, plain / config.factor, ramp.clamp(0, 1)), magnitude
