"""How tokens relate to each other inside a layer, and how far two networks differ in that.

    L = 1/3 Σ_{x in q,k,v} KL(softmax(x_T x_T' / √C) || softmax(x_S x_S' / √C))

Source: MiniLMv2 (Wang et al. 2020, arXiv:2012.15828): relations need no equal number of layers, and
those of one layer suffice. Here they are taken inside aligned windows of 64 tokens of a sequence,
so that their cost grows with the tokens alone. Called by `imitation`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from heddle.model.memory import Memory
from heddle.model.slots import Pooler

WINDOW = 64
_NEVER = -1e9  # the logit of a place that no token fills


class Heads(NamedTuple):
    """A layer's queries, keys and values, as attention got them."""

    q_THC: Tensor
    k_TKC: Tensor
    v_TKC: Tensor


class Overhearing:
    """A `Memory` that notes what one layer's attention is given in the first loop."""

    def __init__(self, memory: Memory, *, layer: int):
        self._memory, self._layer = memory, layer
        self._parts: list[tuple[Tensor, Overhearing]] = []
        self._heads: Heads | None = None

    @property
    def heads(self) -> Heads | None:
        """What the layer was given of the whole batch; None before it was."""
        if self._heads is not None or not self._parts:
            return self._heads
        order_T = torch.cat([rows for rows, _ in self._parts]).argsort()
        parts = [part.heads for _, part in self._parts if part.heads is not None]
        return Heads(*(torch.cat(each)[order_T] for each in zip(*parts, strict=True)))

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        if layer == self._layer:
            self._heads = Heads(q_THC, k_TKC, v_TKC)
        return self._memory.attend(layer, q_THC, k_TKC, v_TKC, pooler)

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        return self._memory.attend_again(layer, q_NHC, k_NKC, v_NKC, loop=loop, rows=rows)

    def part(self, rows: Tensor) -> "Overhearing":
        """See `Memory.part`."""
        part = Overhearing(self._memory.part(rows), layer=self._layer)
        self._parts.append((rows, part))
        return part

    def close_blocks(self) -> None:
        """See `Memory.close_blocks`."""
        self._memory.close_blocks()

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        return self._memory.running_mean(x_TJ, decay=decay)


def relation_divergence(teacher: Heads, student: Heads, position_T: Tensor) -> Tensor:
    """Return the mean divergence over tokens, heads and the three kinds of relations."""
    place_T = position_T % WINDOW
    window_T = (place_T == 0).cumsum(0) - 1
    num_windows = int(window_T[-1]) + 1
    longest = int(place_T.max()) + 1
    filled_WL = torch.zeros(num_windows, longest, dtype=torch.bool, device=position_T.device)
    filled_WL[window_T, place_T] = True
    total = torch.zeros((), device=position_T.device)
    for theirs_TXC, ours_TXC in zip(teacher, student, strict=True):
        theirs, ours = (
            _log_relations(x_TXC, window_T, place_T, filled_WL) for x_TXC in (theirs_TXC, ours_TXC)
        )
        divergence_WXL = (theirs.exp() * (theirs - ours)).sum(-1)
        total = total + (divergence_WXL.mean(1) * filled_WL).sum() / len(position_T)
    return total / len(teacher)


def _log_relations(x_TXC: Tensor, window_T: Tensor, place_T: Tensor, filled_WL: Tensor) -> Tensor:
    """Return each token's log-softmax over the tokens of its window, (W, X, L, L)."""
    x_WLXC = x_TXC.new_zeros(*filled_WL.shape, *x_TXC.shape[1:]).float()
    x_WLXC = x_WLXC.index_put((window_T, place_T), x_TXC.float())
    logits = torch.einsum("wlxc,wmxc->wxlm", x_WLXC, x_WLXC) / x_TXC.shape[-1] ** 0.5
    return logits.masked_fill(~filled_WL[:, None, None], _NEVER).log_softmax(-1)
