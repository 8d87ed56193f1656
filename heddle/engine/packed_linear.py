"""Linear layers in oneDNN's blocked layout, for inference on a CPU. Used by `load`.

Against PyTorch's own products of 3072 × 576 float32 matrices, two cores, AVX-512 (ms for 40):
rows        1     8    16    512
row-major   28    31    40    446
by columns  15    36    40    465
blocked     15    13    16    340    (4 rows: 12, so fewer are filled up to 4)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

MIN_ROWS = 4
MIN_PACKED_WIDTH = 32  # narrower products take less time than the call


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has oneDNN's layout for such weights."""
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


class PackedLinear(nn.Module):
    """An `nn.Linear` whose weights only oneDNN can read; they are no parameters any more."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), MIN_ROWS)
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (rows, in) times the weights, plus the bias."""
        num_rows = x.shape[0]
        if num_rows < MIN_ROWS:
            x = pad(x, (0, 0, 0, MIN_ROWS - num_rows))
        out = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out[:num_rows]
