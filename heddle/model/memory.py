"""The seam between a layer and what it remembers.

Two forms stand behind it: `WholeSequences` here, for training and for plain forwards, and
`engine/paged_memory.py`, the serving cache. The network cannot tell them apart.
"""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_SCAN_TOKENS = 64


class Memory(Protocol):
    """Keys and values of the past, by layer, and the running mean that the gate reads."""

    def attend(self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Store the batch's keys and values and return each query's causal attention, `o_THC`.

        Keys and queries arrive rotated. A token sees itself and what came before it in its own
        sequence.
        """
        ...

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """Return the attention of the N tokens at `rows` of the batch, in a later loop.

        They see what `attend` showed them, and the keys and values given here of tokens up to
        themselves in their aligned block of the sequence.
        """
        ...

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """Return `s_i = decay * s_{i-1} + (1 - decay) * x_i` along each sequence."""
        ...


class WholeSequences:
    """Every sequence is present from its first token; nothing is kept between forward passes."""

    def __init__(self, bounds_S1: tuple[int, ...], *, block_tokens: int = 64):
        self.bounds_S1 = bounds_S1
        self._block_tokens = block_tokens
        self._first: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """See `Memory.attend`."""
        self._first[layer] = k_TKC, v_TKC
        parts = [
            attention(q_THC[start:end], k_TKC[start:end], v_TKC[start:end], is_causal=True)
            for start, end in pairwise(self.bounds_S1)
        ]
        return torch.cat(parts)

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        first_k_TKC, first_v_TKC = self._first[layer]
        cuts = torch.searchsorted(rows, torch.tensor(self.bounds_S1, device=rows.device)).tolist()
        parts = []
        for (start, end), (low, high) in zip(pairwise(self.bounds_S1), pairwise(cuts), strict=True):
            position_N = rows[low:high] - start
            keys = torch.cat([first_k_TKC[start:end], k_NKC[low:high]])
            values = torch.cat([first_v_TKC[start:end], v_NKC[low:high]])
            mask = later_loop_mask(position_N, position_N, end - start, self._block_tokens)
            parts.append(attention(q_NHC[low:high], keys, values, mask=mask))
        return torch.cat(parts)

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        start_J = torch.zeros_like(x_TJ[0])
        parts = [
            running_mean(x_TJ[start:end], start_J, decay=decay)
            for start, end in pairwise(self.bounds_S1)
        ]
        return torch.cat(parts)


def attention(
    q_THC: Tensor,
    k_LKC: Tensor,
    v_LKC: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attend with T queries over L keys; `mask` (T, L) is true where a query may look."""
    out_HTC = scaled_dot_product_attention(
        q_THC.transpose(0, 1)[None],
        k_LKC.transpose(0, 1)[None],
        v_LKC.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=True,
    )[0]
    return out_HTC.transpose(0, 1)


def later_loop_mask(query_N: Tensor, own_M: Tensor, num_first: int, block_tokens: int) -> Tensor:
    """Return who sees what in a later loop, (N, num_first + M), from positions in the sequence.

    Columns are the first loop's keys of positions 0 to `num_first` - 1, then this loop's keys of
    the tokens at `own_M`.
    """
    first_L = torch.arange(num_first, device=query_N.device)
    sees_first = first_L <= query_N[:, None]
    is_past = own_M <= query_N[:, None]
    same_block = own_M // block_tokens == query_N[:, None] // block_tokens
    return torch.cat([sees_first, is_past & same_block], dim=1)


def running_mean(x_TJ: Tensor, start_J: Tensor, *, decay: float) -> Tensor:
    """Return the decaying mean of one sequence, going on from `start_J`."""
    steps = torch.arange(min(len(x_TJ), _SCAN_TOKENS), device=x_TJ.device)
    age = (steps[:, None] - steps).to(x_TJ.dtype)
    weights = torch.where(age >= 0, (1 - decay) * decay ** age.clamp(min=0), 0)
    fade = decay ** (steps + 1).to(x_TJ.dtype)
    parts = []
    for chunk in x_TJ.split(_SCAN_TOKENS):
        num = len(chunk)
        parts.append(weights[:num, :num] @ chunk + fade[:num, None] * start_J)
        start_J = parts[-1][-1]
    return torch.cat(parts)
