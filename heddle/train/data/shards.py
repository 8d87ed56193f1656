"""Tokenised text on disk: a folder of shard files and a manifest. Read by `mix` and `prepare`.

    manifest.json     what is in the folder, and every shard's SHA-256
    tokenizer.json    the tokenizer that made the numbers
    00000.shard ...   a header of 64 bytes, then four sections, little-endian, each from a multiple
                      of 8 bytes on:
                        tokens      num_tokens of uint16 or uint32
                        offsets     num_documents + 1 of uint64: where documents begin
                        clusters    num_documents of int8: places in `CLUSTERS`, -1 for none
                        trained     num_tokens of uint8, only if flagged: 0 for what is only read

The header: the 8 bytes "HEDDLESH", then uint32 version, uint32 bytes of a token, uint64 num_tokens,
uint64 num_documents, uint32 flag "has a trained section", zeros.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heddle.errors import DataError
from heddle.train.data.document import Document, next_tokens

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQI28x")
_MAGIC = b"HEDDLESH"


class Section(NamedTuple):
    """One array of a shard file: where it starts, of what and how many."""

    offset: int
    dtype: str
    count: int


class Layout(NamedTuple):
    """A shard's size in tokens and documents; everything else about the file follows."""

    token_bytes: int
    num_tokens: int
    num_documents: int
    has_trained: bool

    def header(self) -> bytes:
        """Return the file's first 64 bytes."""
        return _HEADER.pack(
            _MAGIC, VERSION, self.token_bytes, self.num_tokens, self.num_documents, self.has_trained
        )

    def sections(self) -> dict[str, Section]:
        """Return the file's arrays by name, in their order."""
        kinds = {
            "tokens": (f"<u{self.token_bytes}", self.num_tokens),
            "offsets": ("<u8", self.num_documents + 1),
            "clusters": ("<i1", self.num_documents),
            "trained": ("<u1", self.num_tokens if self.has_trained else 0),
        }
        placed, offset = {}, _HEADER.size
        for name, (dtype, count) in kinds.items():
            placed[name] = Section(offset, dtype, count)
            offset += -(-np.dtype(dtype).itemsize * count // 8) * 8
        return placed

    def size_bytes(self) -> int:
        """Return the size of the whole file."""
        last = self.sections()["trained"]
        return last.offset + -(-last.count // 8) * 8

    @classmethod
    def read(cls, header: bytes, path: Path) -> "Layout":
        """Return what a header says. Raises DataError when it is not one of ours."""
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise DataError(f"{path} is not a shard: its header is missing")
        _, version, token_bytes, num_tokens, num_documents, has_trained = _HEADER.unpack(header)
        if version != VERSION:
            raise DataError(f"{path}: version is {version}, and this Heddle reads {VERSION}")
        if token_bytes not in (2, 4):
            raise DataError(f"{path}: bytes of a token must be 2 or 4, not {token_bytes}")
        return cls(token_bytes, num_tokens, num_documents, bool(has_trained))


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard's line in the manifest."""

    file: str
    num_tokens: int
    num_documents: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards says of itself.

    Attributes:
        tokenizer_sha256: of the text of tokenizer.json.
        end_id: the token that ends every document.
        whole: documents are examples, which a row of a batch should not cut.
        sources: for each source of text its `licence`, `num_documents` and `num_tokens`.
        clusters: number of tokens of each cluster, "none" for those without.
    """

    tokenizer_sha256: str
    end_id: int
    whole: bool
    num_tokens: int
    num_documents: int
    sources: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, int]
    shards: tuple[ShardEntry, ...]
    version: int = VERSION

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest. Raises DataError, naming the field, when it is missing or damaged."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path.parent} holds no shards: there is no {path.name}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if isinstance(fields, dict) and fields.get("version") != VERSION:
            version = fields.get("version")
            raise DataError(f"{path}: version is {version!r}, and this Heddle reads {VERSION}")
        try:
            shards = tuple(ShardEntry(**entry) for entry in fields.pop("shards"))
            return cls(**fields, shards=shards)
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{path}: a field is missing or unknown ({error})") from error


class Shards:
    """A folder of shards, memory-mapped: documents by number. Safe to share between threads."""

    def __init__(self, folder: Path, *, tokenizer_sha256: str | None = None):
        """Open a folder and compare every file's size and header with the manifest.

        Raises DataError for a missing, truncated or foreign file, for a folder without documents,
        and for one made with another tokenizer than `tokenizer_sha256`.
        """
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        if tokenizer_sha256 not in (None, self.manifest.tokenizer_sha256):
            raise DataError(
                f"{folder / MANIFEST}: tokenizer_sha256 is {self.manifest.tokenizer_sha256[:12]}…, "
                f"but the model's tokenizer is {str(tokenizer_sha256)[:12]}…: prepare the text "
                "again with the model's tokenizer"
            )
        if not self.manifest.num_documents:
            raise DataError(f"{folder / MANIFEST}: num_documents is 0, there is nothing to read")
        self._shards = [_open(folder, entry) for entry in self.manifest.shards]
        counts = [entry.num_documents for entry in self.manifest.shards]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    @property
    def num_documents(self) -> int:
        """How many documents the folder holds."""
        return self.manifest.num_documents

    @property
    def whole(self) -> bool:
        """Whether documents are examples that should not be cut."""
        return self.manifest.whole

    @property
    def fingerprint(self) -> str:
        """What changes when the folder's contents do."""
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()

    def length(self, index: int) -> int:
        """Return a document's number of tokens, its end included."""
        shard, place = self._find(index)
        return int(shard["offsets"][place + 1]) - int(shard["offsets"][place])

    def read(self, index: int) -> Document:
        """Return a document."""
        shard, place = self._find(index)
        start, end = int(shard["offsets"][place]), int(shard["offsets"][place + 1])
        token_N = shard["tokens"][start:end].astype(np.int64)
        trained_N = shard["trained"][start:end].astype(bool) if len(shard["trained"]) else None
        return Document(token_N, next_tokens(token_N, trained_N), int(shard["clusters"][place]))

    def verify(self) -> None:
        """Read every file and compare its hash. Raises DataError for the first that differs."""
        for entry in self.manifest.shards:
            path = self.folder / entry.file
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                    raise DataError(f"{path} is corrupt: its sha256 is not the manifest's")

    def _find(self, index: int) -> tuple[dict[str, NDArray[Any]], int]:
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._shards[number], index - int(self._first[number])


def tokenizer_sha256(tokenizer_json: str) -> str:
    """Return the hash by which manifests name a tokenizer."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


def _open(folder: Path, entry: ShardEntry) -> dict[str, NDArray[Any]]:
    path = folder / entry.file
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            layout = Layout.read(file.read(_HEADER.size), path)
        mapped = np.memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{path} is missing, but the manifest names it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    for field, expected, found in (
        ("size_bytes", entry.size_bytes, size_bytes),
        ("size_bytes", layout.size_bytes(), size_bytes),
        ("num_tokens", entry.num_tokens, layout.num_tokens),
        ("num_documents", entry.num_documents, layout.num_documents),
    ):
        if expected != found:
            raise DataError(f"{path} is corrupt: {field} should be {expected} and is {found}")
    arrays = {
        name: np.frombuffer(mapped, section.dtype, section.count, section.offset)
        for name, section in layout.sections().items()
    }
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != layout.num_tokens or (np.diff(offsets) <= 0).any():
        raise DataError(f"{path} is corrupt: the offsets of its documents do not add up")
    return arrays
