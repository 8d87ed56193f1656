"""The prefix cache on disk, so that a restarted engine finds the prompts it has read before.

Called by `engine`, on its thread. A file holds whole pages with what they are found by: their
tokens, the page before, the variant. It is named after, and begins with, a fingerprint of all that
decides what is in a page; every page carries a checksum. A file that is another's, torn or damaged
is left alone, and a log line says so.

FINGERPRINT.pages
    "HEDDLEPAGES2"
    length of the list (8 bytes, little-endian), the list (JSON), its CRC-32 (4)
    for each page of the list its bytes and their CRC-32
"""

import hashlib
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from heddle import __version__
from heddle.engine.cache import PageCache
from heddle.engine.pages import Pages
from heddle.engine.request import Thinking
from heddle.errors import StorageError
from heddle.weights.atomic import new_file, storage_error
from heddle.weights.checkpoint import Checkpoint
from heddle.weights.configuration import config_to_json
from heddle.weights.native import model_sha256

log = logging.getLogger(__name__)

MAGIC = b"HEDDLEPAGES2"
SUFFIX = ".pages"
MAX_BYTES = 1 << 30  # of all files of the folder together
SYNC_BYTES = 8 << 20  # a request that comes while a file is written waits for so much at most
IDLE_S, EVERY_S = 2.0, 60.0  # how long nothing must have happened, and since the last time
_LENGTH, _CHECK = struct.Struct("<Q"), struct.Struct("<I")


Variant = tuple[Thinking, tuple[float, ...] | None]


class _Saved(NamedTuple):
    """A page in the list: `parent` is the place there of the page before it."""

    parent: int | None
    tokens: list[int]
    variant: Any


class _Interrupted(Exception):
    """A request came while pages were written."""


def fingerprint(checkpoint: Checkpoint, pages: Pages, kernels: str | None) -> str:
    """Return a hash of what decides the contents of a page, but for its tokens and its variant."""
    base = checkpoint.base
    said = {
        "heddle": __version__,
        "weights": model_sha256(checkpoint.path),
        "base": base.sha256 if base else None,
        "config": config_to_json(checkpoint.config),
        "kernels": kernels,
        "threads": None if kernels else torch.get_num_threads(),  # PyTorch's sums depend on them
        "page": [(str(part.dtype), list(part.shape)) for part in pages.parts(0)],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class WarmPages:
    """Saves the pages that a cache remembers, and brings them back."""

    def __init__(self, folder: Path, fingerprint: str, cache: PageCache, pages: Pages):
        """Raises StorageError for a folder that cannot be made."""
        self._cache, self._pages = cache, pages
        self._fingerprint = fingerprint
        self._path = folder / f"{fingerprint[:16]}{SUFFIX}"
        self._page_bytes = sum(part.nbytes for part in pages.parts(0))
        self._num_seen = 0
        self._saved_at = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error

    @property
    def due_s(self) -> float | None:
        """In how many idle seconds to save; None if nothing is new."""
        if self._cache.num_ever_remembered == self._num_seen:
            return None
        return max(IDLE_S, self._saved_at + EVERY_S - time.monotonic())

    def save(self, *, is_idle: Callable[[], bool] = lambda: True) -> None:
        """Write what is remembered, most recently used first; give up when idleness ends.

        A disk that is full or fails costs a log line: requests do not depend on it.
        """
        self._saved_at = time.monotonic()
        num_ever = self._cache.num_ever_remembered
        if num_ever == self._num_seen:
            return
        remembered = self._cache.remembered()[: MAX_BYTES // (self._page_bytes + 4)]
        try:
            with (
                new_file(self._path, overwrite=True) as unfinished,
                open(unfinished, "wb", opener=_private) as file,
            ):
                self._write(file, remembered, is_idle)
        except _Interrupted:
            return
        except StorageError as error:
            log.warning("prefix_cache=not_saved reason=%r", str(error))
        else:
            log.info("prefix_cache=saved pages=%d path=%s", len(remembered), self._path)
            self._make_room()
        self._num_seen = num_ever

    def restore(self) -> None:
        """Make the pages of the file findable, as many as there is room for."""
        try:
            with self._path.open("rb") as file:
                num_pages = self._read(file)
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("prefix_cache=ignored path=%s reason=%r", self._path, str(error))
        else:
            log.info("prefix_cache=restored pages=%d path=%s", num_pages, self._path)
        self._num_seen = self._cache.num_ever_remembered

    def _write(self, file: BinaryIO, pages: list[int], is_idle: Callable[[], bool]) -> None:
        place = {page: number for number, page in enumerate(pages)}
        saved = []
        for page in pages:
            parent, tokens, variant = self._cache.found_by(page)
            before = None if parent is None else place[parent]
            saved.append(_Saved(before, list(tokens), _variant_to_json(variant)))
        head = {"fingerprint": self._fingerprint, "pages": saved}
        listed = json.dumps(head, separators=(",", ":")).encode()
        file.write(MAGIC + _LENGTH.pack(len(listed)) + listed + _CHECK.pack(zlib.crc32(listed)))
        num_unsynchronised = 0
        for page in pages:
            data = b"".join(_bytes(part).numpy().tobytes() for part in self._pages.parts(page))
            num_unsynchronised += file.write(data + _CHECK.pack(zlib.crc32(data)))
            if num_unsynchronised > SYNC_BYTES:
                file.flush()
                os.fsync(file.fileno())
                num_unsynchronised = 0
            if not is_idle():
                raise _Interrupted

    def _read(self, file: BinaryIO) -> int:
        """Return how many pages were taken in. Raises ValueError, and others, for what is wrong."""
        saved = self._read_list(file)
        size = file.tell() + len(saved) * (self._page_bytes + _CHECK.size)
        if os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"it is not of the {size} bytes that it should have: it was cut short")
        taken: list[int] = []
        try:
            for _ in saved[: self._cache.num_available]:
                page = self._cache.allocate(after=taken[-1] if taken else None)
                assert page is not None, "there are so many"
                taken.append(page)
                self._read_page(file, page)
            for page, (parent, tokens, variant) in zip(taken, saved, strict=False):
                self._cache.remember(
                    page,
                    parent=None if parent is None else taken[parent],
                    tokens=tokens,
                    variant=_variant_from_json(variant),
                )
        finally:
            self._cache.release(taken)
        return len(taken)

    def _read_list(self, file: BinaryIO) -> list[_Saved]:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is no file of pages, or of another release")
        [length] = _LENGTH.unpack(_exactly(file, _LENGTH.size))
        listed = _exactly(file, min(length, MAX_BYTES))
        if _CHECK.unpack(_exactly(file, _CHECK.size))[0] != zlib.crc32(listed):
            raise ValueError("its list of pages is damaged")
        head = json.loads(listed)
        if head["fingerprint"] != self._fingerprint:
            raise ValueError("its pages are of another model, or of other settings")
        return [_Saved(*each) for each in head["pages"]]

    def _read_page(self, file: BinaryIO, page: int) -> None:
        data = bytearray(_exactly(file, self._page_bytes))
        if _CHECK.unpack(_exactly(file, _CHECK.size))[0] != zlib.crc32(data):
            raise ValueError("a page is damaged")
        start = 0
        for part in self._pages.parts(page):
            whole = torch.frombuffer(data, dtype=torch.uint8, count=part.nbytes, offset=start)
            _bytes(part).copy_(whole)
            start += part.nbytes

    def _make_room(self) -> None:
        """Delete other models' files, oldest first, until all together are within bounds."""
        files = sorted(self._path.parent.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        surplus = sum(path.stat().st_size for path in files) - MAX_BYTES
        for path in files:
            if surplus > 0 and path != self._path:
                surplus -= path.stat().st_size
                path.unlink(missing_ok=True)


def _bytes(part: Tensor) -> Tensor:
    """Return a view of a tensor's memory."""
    return part.view(-1).view(torch.uint8)


def _private(name: str, flags: int) -> int:
    """Open a file for its owner alone: prompts can be read from it."""
    return os.open(name, flags, 0o600)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it was cut short")
    return data


def _variant_to_json(variant: Variant | None) -> list[Any] | None:
    """Write a `Sequence.variant`, which only first pages have."""
    if variant is None:
        return None
    thinking, steer = variant
    return [thinking.max_loops, thinking.is_automatic, steer]


def _variant_from_json(value: list[Any] | None) -> Variant | None:
    if value is None:
        return None
    max_loops, is_automatic, steer = value
    thinking = Thinking(max_loops=max_loops, is_automatic=is_automatic)
    return thinking, None if steer is None else tuple(steer)
