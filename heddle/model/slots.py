"""Summary slots: what is kept in sight of a block of tokens that is no longer read exactly.

A slot stands for m neighbouring tokens. Its key and its value are weighted means of theirs, and its
logit has the logarithm of m added, so that m equal tokens attract as much through it as they did
themselves:

    K = Σ a_i R(c - p_i) k_i     a = softmax_i(w_K · v_i / √C)     c the centre of the m positions
    V = Σ b_i v_i                b = softmax_i(w_V · v_i / √C)
    logit(q) = q · K / √C + log m + μ

Keys are turned to a common position before they are added, which is pooling before rotation.
w_K, w_V and μ start at zero: plain means. Slots are always made of exact keys and values, never of
slots. Sources: gated pooling of a window, DeepSeek-V4's compressed attention; the log-mass term,
attention matching (arXiv:2602.16284).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from heddle.model.config import MemoryConfig, ModelConfig
from heddle.model.rope import Angles, angles_at, inverse_wavelengths, moved, rotate


class Slots(NamedTuple):
    """Keys, values and added logits of M slots for each of B blocks; -inf is an empty slot."""

    k_BMKC: Tensor
    v_BMKC: Tensor
    bias_BM: Tensor


class Pooler(nn.Module):
    """One layer's way from a block's keys and values to slots."""

    frequencies: Tensor

    def __init__(self, config: ModelConfig, memory: MemoryConfig):
        super().__init__()
        self.memory = memory
        # For keys, then for values.
        self.salience = nn.Parameter(torch.zeros(2, config.num_kv_heads, config.head_width))
        self.mass = nn.Parameter(torch.zeros(len(memory.tiers)))
        frequencies, _ = inverse_wavelengths(config.rope, head_width=config.head_width)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def to_centre(self, size: int, dtype: torch.dtype) -> Angles:
        """Return the angles that turn the tokens of a slot of so many to its centre."""
        offset_m = (size - 1) / 2 - torch.arange(size, device=self.frequencies.device)
        return angles_at(offset_m, self.frequencies, dtype)

    def forward(self, k_BNKC: Tensor, v_BNKC: Tensor, block_B: Tensor, *, tier: int) -> Slots:
        """Pool whole blocks, whose numbers in their sequences are `block_B`, for a tier.

        Keys arrive rotated. The sequence's sinks, always read exactly, are left out.
        """
        size = self.memory.tiers[tier].ratio
        k_BMKC, v_BMKC, counts_BM = self._pool(k_BNKC, v_BNKC, block_B, size)
        return Slots(k_BMKC, v_BMKC, counts_BM.float().log() + self.mass[tier])

    def index(self, k_BNKC: Tensor, v_BNKC: Tensor, block_B: Tensor) -> Tensor:
        """Return the keys by which whole blocks are found, (B, M, K, C): see `paging`.

        They are those that slots of `index_ratio` tokens would have if each block were the first.
        """
        assert self.memory.index_ratio is not None, "there is an index"
        k_BMKC, *_ = self._pool(k_BNKC, v_BNKC, block_B, self.memory.index_ratio)
        back_B = -block_B * self.memory.block_tokens
        return moved(k_BMKC.flatten(1, 2), back_B, self.frequencies).view(k_BMKC.shape)

    def _pool(
        self, k_BNKC: Tensor, v_BNKC: Tensor, block_B: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values of slots, and how many tokens each stands for."""
        k_BMmKC, v_BMmKC = (x.unflatten(1, (-1, size)) for x in (k_BNKC, v_BNKC))
        k_BMmKC = rotate(k_BMmKC, self.to_centre(size, k_BNKC.dtype))
        place_N = torch.arange(k_BNKC.shape[1], device=k_BNKC.device)
        counts_BN = (block_B[:, None] > 0) | (place_N >= self.memory.sink_tokens)
        counts_BMm = counts_BN.unflatten(1, (-1, size))
        logits_2BMmK = torch.einsum("BNmKC,xKC->xBNmK", v_BMmKC, self.salience)
        logits_2BMmK = logits_2BMmK / v_BNKC.shape[-1] ** 0.5
        logits_2BMmK = logits_2BMmK.masked_fill(~counts_BMm[..., None], -1e4)
        weight_2BMmK = logits_2BMmK.float().softmax(3).to(v_BNKC.dtype)
        k_BMKC, v_BMKC = (
            torch.einsum("BNmK,BNmKC->BNKC", weight_BMmK, x_BMmKC)
            for weight_BMmK, x_BMmKC in zip(weight_2BMmK, (k_BMmKC, v_BMmKC), strict=True)
        )
        return k_BMKC, v_BMKC, counts_BMm.sum(-1)


def sees_exactly(memory: MemoryConfig, query_T: Tensor, key_L: Tensor) -> Tensor:
    """Return which keys a query reads as they are, (T, L), from positions in the sequence."""
    age_TL = query_T[:, None] // memory.block_tokens - key_L // memory.block_tokens
    is_near_TL = (age_TL < memory.window_blocks) | (key_L < memory.sink_tokens)
    return is_near_TL & (key_L <= query_T[:, None])


def sees_summarised(memory: MemoryConfig, query_T: Tensor, *, tier: int, num_blocks: int) -> Tensor:
    """Return through which slots of blocks 0 to `num_blocks` - 1 a query looks, (T, slots)."""
    ranges = [
        memory.summarised(b)[tier] for b in range(int(query_T.max()) // memory.block_tokens + 1)
    ]
    first_B, end_B = torch.tensor(ranges, device=query_T.device).unbind(1)
    query_block_T = query_T // memory.block_tokens
    block_M = torch.arange(num_blocks, device=query_T.device).repeat_interleave(
        memory.block_tokens // memory.tiers[tier].ratio
    )
    return (block_M >= first_B[query_block_T][:, None]) & (block_M < end_B[query_block_T][:, None])
