"""What the native kernels compute, said in PyTorch: the oracle that their tests compare with.

Integers are exact in both. Sums over groups of columns are float64 here and float32 there.
"""

import torch
from torch import Tensor

from heddle.kernels.packing import GROUP, PackedMatrix


def rounded(x_ND: Tensor) -> Tensor:
    """Return rows as the kernels round them: groups of 32 to 127 * 256 steps of their own each.

    A number of steps is 256 times a high part plus a low one, which is not below -127.
    """
    groups = x_ND.unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / (127 * 256)
    steps = (groups * torch.where(scale > 1e-30, 1 / scale, 0)).round()
    high = 256 * torch.floor((steps + 128) / 256)
    return (scale * (high + (steps - high).clamp(min=-127))).flatten(1)


def numbers(matrix: PackedMatrix) -> Tensor:
    """Return a packed matrix's numbers in float32, (rows, cols)."""
    panels, groups, _ = matrix.data.shape
    num_bytes = 256 if matrix.kind == "nibbles" else 512
    q = matrix.data[..., :num_bytes].reshape(panels, groups, -1, 16, 4)  # chunk, row, column
    halves = matrix.data[..., num_bytes:].contiguous().view(torch.float16).float()
    if matrix.kind == "nibbles":
        q = torch.cat([q & 15, q >> 4], dim=2).float()
    else:
        q = q.view(torch.int8).float()
    w = q.permute(0, 3, 1, 2, 4).flatten(3) * halves[..., :16].transpose(1, 2)[..., None]
    if matrix.kind == "nibbles":
        w = w + halves[..., 16:].transpose(1, 2)[..., None]
    return w.flatten(2).flatten(0, 1)[: matrix.rows]


def product(matrix: PackedMatrix, x_ND: Tensor) -> Tensor:
    """Return each row of `x_ND` times the matrix, in float64."""
    return rounded(x_ND).double() @ numbers(matrix).double().T
