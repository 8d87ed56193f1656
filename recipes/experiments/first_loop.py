"""The loop cache that was not chosen: every block is seen by the keys of its tokens' first loop.

A `Memory` for the experiment `loop_cache` alone (a shared first-loop cache: arXiv:2510.24824).
"""

from torch import Tensor

from heddle.model.memory import Memory
from heddle.model.slots import Pooler


class FirstLoop:
    """A memory whose blocks are closed before their later loops begin."""

    def __init__(self, memory: Memory):
        self._memory = memory
        self._is_closed = False

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        return self._memory.attend(layer, q_THC, k_TKC, v_TKC, pooler)

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        self.close_blocks()
        return self._memory.attend_again(layer, q_NHC, k_NKC, v_NKC, loop=loop, rows=rows)

    def part(self, rows: Tensor) -> "FirstLoop":
        """See `Memory.part`."""
        return FirstLoop(self._memory.part(rows))

    def close_blocks(self) -> None:
        """Close them, once."""
        if not self._is_closed:
            self._memory.close_blocks()
            self._is_closed = True

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        return self._memory.running_mean(x_TJ, decay=decay)
