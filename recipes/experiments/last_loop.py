"""The other loop cache: each token is remembered by the keys and values of its last loop.

A `Memory` for the experiment `loop_cache` alone. While tokens are read side by side every loop sees
its own keys and values of all tokens before it; what is read afterwards sees the last ones
(sharing among loops: arXiv:2507.10524, section 3).
"""

import torch
from torch import Tensor

from heddle.model.memory import attention, running_mean
from heddle.model.slots import Pooler


class LastLoop:
    """Keys and values of equally long sequences, which are read some tokens further a forward."""

    def __init__(self, num_sequences: int):
        self._num_sequences = num_sequences
        self._k_SLKC: dict[int, Tensor] = {}  # by layer, each token's newest
        self._v_SLKC: dict[int, Tensor] = {}
        self._num_new = 0
        self._mean_SJ: Tensor | None = None

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """Add the keys and values of tokens to what was read before them."""
        self._num_new = len(k_TKC) // self._num_sequences
        for kept, new in ((self._k_SLKC, k_TKC), (self._v_SLKC, v_TKC)):
            parts = [kept[layer]] if layer in kept else []
            kept[layer] = torch.cat([*parts, self._by_sequence(new)], dim=1)
        return self._attend(layer, q_THC)

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """Put a later loop's keys and values in place of the same tokens' from the loop before."""
        for kept, new in ((self._k_SLKC, k_NKC), (self._v_SLKC, v_NKC)):
            before, newest = kept[layer].tensor_split([-self._num_new], dim=1)
            newest = self._by_sequence(newest.flatten(0, 1).index_copy(0, rows, new))
            kept[layer] = torch.cat([before, newest], dim=1)
        num_tokens = self._num_sequences * self._num_new
        q_THC = q_NHC.new_zeros(num_tokens, *q_NHC.shape[1:]).index_copy(0, rows, q_NHC)
        return self._attend(layer, q_THC)[rows]

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        x_STJ = self._by_sequence(x_TJ)
        start_SJ = torch.zeros_like(x_STJ[:, 0]) if self._mean_SJ is None else self._mean_SJ
        mean_STJ = running_mean(x_STJ, start_SJ, decay=decay)
        self._mean_SJ = mean_STJ[:, -1]
        return mean_STJ.flatten(0, 1)

    def _attend(self, layer: int, q_THC: Tensor) -> Tensor:
        k_SLKC, v_SLKC = self._k_SLKC[layer], self._v_SLKC[layer]
        position_L = torch.arange(k_SLKC.shape[1], device=q_THC.device)
        sees_TL = position_L <= position_L[-self._num_new :, None]
        out_STHC = attention(self._by_sequence(q_THC), k_SLKC, v_SLKC, mask=sees_TL)
        return out_STHC.flatten(0, 1)

    def _by_sequence(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self._num_sequences, -1))
