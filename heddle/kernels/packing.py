"""Matrices in the order in which the native kernels read them; `native/matrix.h` describes it.

Blocks of GGUF's Q4_0, Q4_1 and Q8_0 are moved, not rounded again: a packed matrix means exactly the
numbers that the file means. Used by `cpu` and by the engine when it loads a model.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Literal

import torch
from torch import Tensor

from heddle.kernels.quant import QuantTensor

PANEL = 16  # rows
ROWS_AT_ONCE = 128 * PANEL
GROUP = 32  # columns
LARGE_PAGE = 2 << 20  # bytes
ROOM_BYTES = 16 * LARGE_PAGE
ALIGNMENT = 64
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


class Room:
    """Memory for weights, in large pages where the system has them: fewer to be looked up.

    Decoding was 4 to 6% faster so.
    """

    def __init__(self):
        self._left = torch.empty(0, dtype=torch.uint8)

    def empty(self, *shape: int) -> Tensor:
        """Return a uint8 tensor that nothing else uses."""
        size = -(-prod(shape) // ALIGNMENT) * ALIGNMENT
        if size > len(self._left):
            self._left = _large_pages(max(size, ROOM_BYTES))
        taken, self._left = self._left.tensor_split([size])
        return taken[: prod(shape)].view(shape)


def can_pack(parts: Sequence[object]) -> bool:
    """Whether matrices can be stacked and packed with the numbers that they have."""
    kinds = {KINDS.get(part.format) if isinstance(part, QuantTensor) else None for part in parts}
    return len(kinds) == 1 and None not in kinds


def pack(parts: list[QuantTensor], room: Room | None = None) -> PackedMatrix:
    """Pack matrices of one kind, stacked row-wise, into a room if there is one."""
    kind = KINDS[parts[0].format]
    assert all(KINDS[part.format] == kind for part in parts), "stacked matrices have one kind"
    rows = sum(part.shape[0] for part in parts)
    if len(parts) > 1 or rows <= ROWS_AT_ONCE:
        unpacked = [_UNPACK[part.format](part.data) for part in parts]
        q_RGB, *scales = (torch.cat(pieces) for pieces in zip(*unpacked, strict=True))
        return _packed(kind, q_RGB, scales, room)
    [part] = parts  # by pieces, so that no second copy of a large matrix is held
    pieces = (pack([part[first : first + ROWS_AT_ONCE]]) for first in range(0, rows, ROWS_AT_ONCE))
    first = next(pieces)
    data = _empty(room, -(-rows // PANEL), *first.data.shape[1:])
    at = 0
    for piece in chain([first], pieces):
        data[at : at + len(piece.data)] = piece.data
        at += len(piece.data)
    return PackedMatrix(kind, rows, first.cols, data)


def quantise(weight_RC: Tensor, room: Room | None = None) -> PackedMatrix:
    """Round a float matrix to 8 bits, each group of 32 columns by its largest number."""
    groups = weight_RC.float().unflatten(1, (-1, GROUP))
    scale_RG1 = (groups.abs().amax(-1, keepdim=True) / 127).half().float()
    q_RGN = torch.where(scale_RG1 > 0, groups / scale_RG1, 0).round().clamp(-127, 127).char()
    return _packed("bytes", q_RGN.view(torch.uint8), [scale_RG1[..., 0].half()], room)


def turn_by_turn(packed: PackedMatrix) -> None:
    """Reorder gates and ups, stacked as halves, as a gated product reads them: in one stream.

    The gates of a group's channels, then their ups, and so on.
    """
    panels = torch.arange(len(packed.data)).view(2, -1, GROUP // PANEL)
    packed.data.copy_(packed.data[panels.transpose(0, 1).flatten()])


def _packed(kind: Kind, q_RGB: Tensor, scales: list[Tensor], room: Room | None) -> PackedMatrix:
    """Lay out bytes (rows, groups, bytes) and float16 scales (rows, groups)."""
    rows, groups, size = q_RGB.shape
    panels = -(-rows // PANEL)
    data = _empty(room, panels, groups, PANEL * (size + 2 * len(scales)))
    words = data.view(torch.int32)[..., : PANEL * size // 4].unflatten(2, (size // 4, PANEL))
    _fill_panels(words.permute(0, 3, 1, 2), q_RGB.contiguous().view(torch.int32))
    for place, scale_RG in enumerate(scales):
        first = PANEL * (size // 2 + place)
        halves = data.view(torch.float16)[..., first : first + PANEL]
        _fill_panels(halves.transpose(1, 2), scale_RG)
    return PackedMatrix(kind, rows, groups * GROUP, data)


def _fill_panels(into: Tensor, rows_RX: Tensor) -> None:
    """Write rows to panels (panels, rows of one, ...), and zeros behind them."""
    whole = len(rows_RX) // PANEL
    into[:whole] = rows_RX[: whole * PANEL].unflatten(0, (whole, PANEL))
    into[whole:] = 0
    into[whole:, : len(rows_RX) % PANEL] = rows_RX[whole * PANEL :]


def _empty(room: Room | None, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8) if room is None else room.empty(*shape)


def _large_pages(num_bytes: int) -> Tensor:
    memory = mmap.mmap(-1, num_bytes + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # systems without large pages, or without asking
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    first = -whole.data_ptr() % LARGE_PAGE
    return whole[first : first + num_bytes]


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
