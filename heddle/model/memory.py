"""The seam between a layer and what it remembers.

Two forms stand behind it: `WholeSequences` here, for training and for plain forwards, and
`engine/paged_memory.py`, the serving cache. The network calls `attend` once a layer and cannot tell
them apart.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Memory(Protocol):
    """Keys and values of the past, by layer."""

    def attend(self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Store the batch's keys and values and return each query's causal attention, `o_THC`.

        Keys and queries arrive rotated. A token sees itself and what came before it in its own
        sequence.
        """
        ...


class WholeSequences:
    """Every sequence is present from its first token; nothing is kept between calls."""

    def __init__(self, bounds_S1: tuple[int, ...]):
        self.bounds_S1 = bounds_S1

    def attend(self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """See `Memory.attend`."""
        parts = [
            scaled_dot_product_attention(
                q_THC[start:end].transpose(0, 1)[None],
                k_TKC[start:end].transpose(0, 1)[None],
                v_TKC[start:end].transpose(0, 1)[None],
                is_causal=True,
                enable_gqa=True,
            )[0].transpose(0, 1)
            for start, end in zip(self.bounds_S1, self.bounds_S1[1:], strict=False)
        ]
        return torch.cat(parts)
