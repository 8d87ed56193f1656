"""Matrices in the order in which the native kernels read them; `native/matrix.h` describes it.

Blocks of GGUF's Q4_0, Q4_1 and Q8_0 are moved, not rounded again: a packed matrix means exactly the
numbers that the file means. Used by `cpu` and by the engine when it loads a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from heddle.kernels.quant import QuantTensor

PANEL = 16  # rows
ROWS_AT_ONCE = 128 * PANEL
GROUP = 32  # columns
Kind = Literal["nibbles", "bytes"]
KINDS: dict[str, Kind] = {"Q4_0": "nibbles", "Q4_1": "nibbles", "Q8_0": "bytes"}


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix of `rows` by `cols`; `data` is uint8, panels x groups x bytes of a group.

    Rows are filled up to whole panels with zeros.
    """

    kind: Kind
    rows: int
    cols: int
    data: Tensor


def can_pack(parts: Sequence[object]) -> bool:
    """Whether matrices can be stacked and packed with the numbers that they have."""
    kinds = {KINDS.get(part.format) if isinstance(part, QuantTensor) else None for part in parts}
    return len(kinds) == 1 and None not in kinds


def pack(parts: list[QuantTensor]) -> PackedMatrix:
    """Pack matrices of one kind, stacked row-wise."""
    kind = KINDS[parts[0].format]
    assert all(KINDS[part.format] == kind for part in parts), "stacked matrices have one kind"
    rows = sum(part.shape[0] for part in parts)
    if len(parts) > 1 or rows <= ROWS_AT_ONCE:
        unpacked = [_UNPACK[part.format](part.data) for part in parts]
        q_RGB, *scales = (torch.cat(pieces) for pieces in zip(*unpacked, strict=True))
        return _packed(kind, q_RGB, scales)
    [part] = parts  # by pieces, so that no second copy of a large matrix is held
    pieces = (pack([part[first : first + ROWS_AT_ONCE]]) for first in range(0, rows, ROWS_AT_ONCE))
    first = next(pieces)
    data = torch.empty(-(-rows // PANEL), *first.data.shape[1:], dtype=torch.uint8)
    at = 0
    for piece in chain([first], pieces):
        data[at : at + len(piece.data)] = piece.data
        at += len(piece.data)
    return PackedMatrix(kind, rows, first.cols, data)


def quantise(weight_RC: Tensor) -> PackedMatrix:
    """Round a float matrix to 8 bits, each group of 32 columns by its largest number."""
    groups = weight_RC.float().unflatten(1, (-1, GROUP))
    scale_RG1 = (groups.abs().amax(-1, keepdim=True) / 127).half().float()
    q_RGN = torch.where(scale_RG1 > 0, groups / scale_RG1, 0).round().clamp(-127, 127).char()
    return _packed("bytes", q_RGN.view(torch.uint8), [scale_RG1[..., 0].half()])


def _packed(kind: Kind, q_RGB: Tensor, scales: list[Tensor]) -> PackedMatrix:
    """Lay out bytes (rows, groups, bytes) and float16 scales (rows, groups)."""
    rows, groups, size = q_RGB.shape
    padded = -(-rows // PANEL) * PANEL
    chunks = _filled(q_RGB, padded).view(padded // PANEL, PANEL, groups, size // 4, 4)
    data = [chunks.permute(0, 2, 3, 1, 4).reshape(padded // PANEL, groups, -1)]
    for scale_RG in scales:
        panels = _filled(scale_RG, padded).view(padded // PANEL, PANEL, groups)
        data.append(panels.transpose(1, 2).contiguous().view(torch.uint8))
    return PackedMatrix(kind, rows, groups * GROUP, torch.cat(data, dim=2))


def _filled(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])


def _blocks(data_RY: Tensor, block_bytes: int) -> Tensor:
    return data_RY.unflatten(1, (-1, block_bytes))


def _half(bytes_RG2: Tensor) -> Tensor:
    return bytes_RG2.contiguous().view(torch.float16)[..., 0]


def _q4_0(data_RY: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return nibbles, scales and offsets: scale * (q - 8) is scale * q - 8 scale, exactly."""
    blocks = _blocks(data_RY, 18)
    scale_RG = _half(blocks[..., :2])
    return blocks[..., 2:], scale_RG, scale_RG * -8


def _q4_1(data_RY: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    blocks = _blocks(data_RY, 20)
    return blocks[..., 4:], _half(blocks[..., :2]), _half(blocks[..., 2:4])


def _q8_0(data_RY: Tensor) -> tuple[Tensor, Tensor]:
    blocks = _blocks(data_RY, 34)
    return blocks[..., 2:], _half(blocks[..., :2])


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}
