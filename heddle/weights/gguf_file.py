"""The GGUF container: fields and tensors of a mapped file, believed after they are checked.

Used by `gguf.py`, which knows what fields and tensors mean. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader takes
seconds for a vocabulary of 49,152 tokens, this one a few hundredths of one, and it follows any
count that a header claims.
"""

import math
import mmap
import os
import struct
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch

from heddle.errors import WeightsError
from heddle.kernels.quant import FORMATS, QuantTensor, block_layout
from heddle.weights.contents import Part

MAX_FIELDS, MAX_TENSORS, MAX_ARRAY_ITEMS = 1 << 14, 1 << 18, 1 << 22
ALIGNMENTS = [1 << exponent for exponent in range(3, 21)]
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_LENGTH = struct.Struct("<Q")
_SCALARS: dict[int, str] = {
    gguf.GGUFValueType.UINT8: "B",
    gguf.GGUFValueType.INT8: "b",
    gguf.GGUFValueType.UINT16: "H",
    gguf.GGUFValueType.INT16: "h",
    gguf.GGUFValueType.UINT32: "I",
    gguf.GGUFValueType.INT32: "i",
    gguf.GGUFValueType.FLOAT32: "f",
    gguf.GGUFValueType.BOOL: "?",
    gguf.GGUFValueType.UINT64: "Q",
    gguf.GGUFValueType.INT64: "q",
    gguf.GGUFValueType.FLOAT64: "d",
}


class TensorEntry(NamedTuple):
    """What the header says of a tensor; `offset` counts from the end of the header."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int


class TensorInfo(NamedTuple):
    """Where a tensor lies; `shape` is rows first, `offset` counts from the start of the file."""

    format: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class GgufFile:
    """An opened file: `fields` by key, `tensors` by name. Raises WeightsError on distrust."""

    def __init__(self, path: Path):
        self.path = path
        self.size_bytes = path.stat().st_size
        if self.size_bytes < 24:
            raise WeightsError(
                f"{path}: {self.size_bytes} bytes are too few for a GGUF file; fetch it again"
            )
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            self._read_header(_Header(path, data))

    def _read_header(self, header: "_Header") -> None:
        num_tensors, num_fields = header.counts()
        self.fields = {}
        for _ in range(num_fields):
            key = header.strings(1, "the name of a field")[0]
            if key in self.fields:
                raise WeightsError(f"{self.path}: field {key!r} occurs twice")
            self.fields[key] = header.value(key)
        entries = [header.tensor_entry() for _ in range(num_tensors)]
        self.tensors = self._place(entries, header.offset)

    def part(self, name: str) -> Part:
        """Read a tensor: packed if quantised, else plain numbers.

        It is a copy: a mapping would count as this process's memory long after it was used.
        """
        info = self.tensors[name]
        room, done = bytearray(info.size_bytes), 0
        while done < info.size_bytes:
            into = memoryview(room)[done:]
            num_read = os.preadv(self._descriptor, [into], info.offset + done)
            if num_read == 0:
                raise WeightsError(f"{self.path} became shorter while it was read; fetch it again")
            done += num_read
        data = torch.frombuffer(room, dtype=torch.uint8) if room else torch.empty(0).byte()
        if info.format in PLAIN:
            return data.view(PLAIN[info.format]).view(info.shape)
        return QuantTensor(info.format, data.view(info.shape[0], -1))

    def _place(self, entries: list[TensorEntry], end_of_header: int) -> dict[str, TensorInfo]:
        alignment = self.fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if alignment not in ALIGNMENTS:
            raise WeightsError(f"{self.path}: field 'general.alignment' is {str(alignment)[:60]!r}")
        start = -(-end_of_header // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, kind, shape, offset in entries:
            where = f"{self.path}: tensor {name!r}"
            if name in tensors:
                raise WeightsError(f"{where} occurs twice")
            if offset % alignment:
                raise WeightsError(
                    f"{where} has an offset of {offset}, not a multiple of {alignment}"
                )
            info = _tensor_info(where, kind, shape, start + offset)
            if info.offset + info.size_bytes > self.size_bytes:
                raise WeightsError(
                    f"{where} ends at byte {info.offset + info.size_bytes}, the file at "
                    f"{self.size_bytes}: it is cut short or corrupt; fetch it again"
                )
            tensors[name] = info
        return tensors


def _tensor_info(where: str, kind: int, shape: tuple[int, ...], offset: int) -> TensorInfo:
    try:
        format = gguf.GGMLQuantizationType(kind).name
    except ValueError:
        format = f"number {kind}"
    if format in PLAIN:
        return TensorInfo(format, shape, offset, math.prod(shape) * PLAIN[format].itemsize)
    if format not in FORMATS or len(shape) != 2:
        raise WeightsError(
            f"{where} is of type {format} and shape {list(shape)}, which Heddle cannot read"
        )
    block_length, block_bytes = block_layout(format)
    rows, columns = shape
    if columns % block_length:
        raise WeightsError(
            f"{where} has rows of {columns} numbers, not a multiple of {format}'s {block_length}"
        )
    return TensorInfo(format, shape, offset, rows * (columns // block_length * block_bytes))


class _Header:
    """Reads values one after another, never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path = path
        self.data = data
        self.offset = 0

    def counts(self) -> tuple[int, int]:
        magic, version = self.data[:4], struct.unpack_from("<I", self.data, 4)[0]
        if magic != b"GGUF":
            raise WeightsError(
                f"{self.path}: not a GGUF file: it begins with {magic!r}, not b'GGUF'"
            )
        if version not in (2, 3):
            raise WeightsError(
                f"{self.path}: GGUF version {version} is not supported: only 2 and 3, little-endian"
            )
        num_tensors, num_fields = struct.unpack_from("<QQ", self.data, 8)
        if num_tensors > MAX_TENSORS or num_fields > MAX_FIELDS:
            raise WeightsError(
                f"{self.path}: the header claims {num_tensors} tensors and {num_fields} fields, "
                f"more than {MAX_TENSORS} and {MAX_FIELDS}: the file is corrupt; fetch it again"
            )
        self.offset = 24
        return num_tensors, num_fields

    def take(self, format: str, what: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + format)
        self.require(size, what)
        values = struct.unpack_from("<" + format, self.data, self.offset)
        self.offset += size
        return values

    def require(self, size_bytes: int, what: str) -> None:
        if self.offset + size_bytes > len(self.data):
            raise WeightsError(
                f"{self.path}: ends inside {what}: the file is cut short or corrupt; fetch it again"
            )

    def strings(self, count: int, what: str) -> list[str]:
        self.require(8 * count, what)
        data, size = self.data, len(self.data)
        values = []
        for _ in range(count):  # a vocabulary passes here: `take` would be three times as slow
            start = self.offset + 8
            self.offset = (
                start + _LENGTH.unpack_from(data, start - 8)[0] if start <= size else start
            )
            self.require(0, what)
            values.append(data[start : self.offset])
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError as error:
            raise WeightsError(
                f"{self.path}: {what} is not UTF-8 text: the file is corrupt; fetch it again"
            ) from error

    def value(self, key: str) -> Any:
        what = f"field {key!r}"
        (kind,) = self.take("I", what)
        if kind != gguf.GGUFValueType.ARRAY:
            return self.items(kind, 1, what)[0]
        kind, count = self.take("IQ", what)
        if count > MAX_ARRAY_ITEMS:
            raise WeightsError(
                f"{self.path}: {what} claims {count} items, more than the {MAX_ARRAY_ITEMS} allowed"
            )
        return self.items(kind, count, what)

    def items(self, kind: int, count: int, what: str) -> list[Any]:
        if kind == gguf.GGUFValueType.STRING:
            return self.strings(count, what)
        if kind not in _SCALARS:
            raise WeightsError(f"{self.path}: {what} has the unknown type {kind}")
        return list(self.take(f"{count}{_SCALARS[kind]}", what))

    def tensor_entry(self) -> TensorEntry:
        name = self.strings(1, "the name of a tensor")[0]
        what = f"the entry of tensor {name!r}"
        (num_dimensions,) = self.take("I", what)
        if not 1 <= num_dimensions <= 4:
            raise WeightsError(f"{self.path}: {what} has {num_dimensions} dimensions, not 1 to 4")
        shape = self.take(f"{num_dimensions}Q", what)[::-1]
        kind, offset = self.take("IQ", what)
        if 0 in shape:
            raise WeightsError(f"{self.path}: {what} has the empty shape {list(shape)}")
        return TensorEntry(name, kind, shape, offset)
