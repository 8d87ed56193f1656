"""Tensors of Heddle's own folders as they lie in safetensors: NAME, NAME:0, NAME@Q4_1, NAME@Q4_1:0.

Called by `native`. A tensor larger than a file may be lies in numbered pieces of its rows; what
stands behind @ is the format of GGUF's blocks, whose bytes then are the piece.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from heddle.errors import WeightsError
from heddle.kernels.quant import FORMATS, QuantTensor, block_layout
from heddle.weights.contents import Part
from heddle.weights.sharded import DTYPES, SafetensorFiles

PACKED = "U8"


class Piece(NamedTuple):
    """Rows of a tensor under `key`; `shape` is that of the numbers, `format` that of blocks."""

    key: str
    name: str
    number: int
    format: str | None
    shape: tuple[int, ...]


def open_pieces(folder: Path) -> SafetensorFiles:
    """Open a folder's files."""
    return SafetensorFiles(folder, types=(*DTYPES, PACKED))


def by_tensor(path: Path, files: SafetensorFiles) -> dict[str, list[Piece]]:
    """Return the pieces of each tensor in order. Raises WeightsError for unreadable blocks."""
    pieces: dict[str, list[Piece]] = {}
    for key, shape in files.shapes.items():
        stem, _, number = key.partition(":")
        name, _, format = stem.partition("@")
        if (files.dtype(key) == PACKED) != bool(format):
            raise WeightsError(f"{path}: tensor {key!r} is of type {files.dtype(key)}: corrupt")
        if format:
            shape = _numbers(path, key, format, shape)
        place = int(number) if number.isdecimal() else 0
        pieces.setdefault(name, []).append(Piece(key, name, place, format or None, shape))
    return {name: sorted(found, key=lambda piece: piece.number) for name, found in pieces.items()}


def read_piece(files: SafetensorFiles, key: str) -> Part:
    """Read a piece, mapped from its file."""
    format = key.partition(":")[0].partition("@")[2]
    return QuantTensor(format, files.read(key)) if format else files.read(key)


def cut(name: str, parts: Sequence[Part], max_bytes: int) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored of a tensor: by rows, where it is larger than a file may be."""
    found: list[tuple[str, Tensor]] = []
    for part in parts:
        stem = f"{name}@{part.format}" if isinstance(part, QuantTensor) else name
        data = part.data if isinstance(part, QuantTensor) else part
        if data.nbytes <= max_bytes or data.dim() == 0:
            found.append((stem, data))
            continue
        num_rows = max(1, max_bytes // (data.nbytes // len(data)))
        found += [(stem, rows) for rows in data.split(num_rows)]
    if len(found) == 1:
        yield found[0]
        return
    for number, (stem, data) in enumerate(found):
        yield f"{stem}:{number}", data.clone()  # safetensors refuses parts of one storage


def numbers_in(files: SafetensorFiles, pieces: Iterable[Piece]) -> tuple[int, str]:
    """Return how many numbers there are, and the type of most of them."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts[piece.format or DTYPES[files.dtype(piece.key)]] += math.prod(piece.shape)
    return counts.total(), counts.most_common(1)[0][0]


def _numbers(path: Path, key: str, format: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the numbers in blocks."""
    if format in FORMATS and len(shape) == 2:
        length, size = block_layout(format)
        if shape[1] % size == 0:
            return shape[0], shape[1] // size * length
    raise WeightsError(
        f"{path}: tensor {key!r} of shape {list(shape)} holds no whole blocks of a format that "
        "Heddle knows: fetch or make it again"
    )
