"""JSON objects from files of one a line, compressed or not. Used by `jsonl` and `train.data`."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from heddle.errors import ConfigError, DataError


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, unpacking .gz, .xz and .zst as it goes.

    Raises DataError when it is missing or damaged, and ConfigError when .zst needs a package.
    """
    try:
        with _open(path) as file:
            yield from file
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file. Raises DataError, with the line, for anything else."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        yield row


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(_open_zstandard(path), encoding="utf-8")
    return path.open(encoding="utf-8")


def _open_zstandard(path: Path) -> io.BufferedReader:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ConfigError(f"reading {path} needs zstandard: pip install zstandard") from error
    return io.BufferedReader(_Unpacked(path.open("rb"), zstandard))


class _Unpacked(io.RawIOBase):
    """A zstandard file's contents; unlike the package's own reader it notices a missing end."""

    def __init__(self, file: io.BufferedReader, zstandard: Any):
        self._file = file
        self._zstandard = zstandard
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._file.read(1 << 16)
            if not packed:
                if not self._frame.eof:
                    raise EOFError("the file ends in the middle")
                return 0
            if self._frame.eof:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(packed)
            except self._zstandard.ZstdError as error:
                raise OSError(str(error)) from error
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
