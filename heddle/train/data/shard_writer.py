"""Writes folders of shards, one shard in memory at a time.

Called by `prepare`, in a folder that appears under its name once it is complete and on the disk.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from heddle.errors import DataError
from heddle.model.config import CLUSTERS
from heddle.train.data.document import Tokens
from heddle.train.data.shards import (
    MANIFEST,
    TOKENIZER,
    Layout,
    Manifest,
    ShardEntry,
    tokenizer_sha256,
)

SHARD_TOKENS = 1 << 22  # 8 MiB of uint16: small enough to carry, large enough to map


class ShardWriter:
    """Collects documents; writes a shard when it is full and the manifest at the end."""

    def __init__(
        self,
        folder: Path,
        tokenizer_json: str,
        *,
        vocab_size: int,
        end_id: int,
        whole: bool,
        shard_tokens: int = SHARD_TOKENS,
    ):
        """Begin an existing, empty folder. With `whole`, documents carry what is trained."""
        self._folder = folder
        self._tokenizer_json = tokenizer_json
        self._token_bytes = 2 if vocab_size <= 1 << 16 else 4
        self._end_id = end_id
        self._whole = whole
        self._shard_tokens = shard_tokens
        self._entries: list[ShardEntry] = []
        self._sources: dict[str, dict[str, Any]] = {}
        self._clusters: Counter[str] = Counter()
        self._begin_shard()

    def add(
        self,
        token_N: Tokens,
        *,
        cluster: int,
        source: str,
        licence: str,
        trained_N: Tokens | None = None,
    ) -> None:
        """Add a document, its end token included. Raises DataError for a second licence."""
        entry = self._sources.setdefault(
            source, {"licence": licence, "num_documents": 0, "num_tokens": 0}
        )
        if entry["licence"] != licence:
            raise DataError(f"source {source!r} has two licences: {entry['licence']} and {licence}")
        entry["num_documents"] += 1
        entry["num_tokens"] += len(token_N)
        self._clusters["none" if cluster < 0 else CLUSTERS[cluster]] += len(token_N)
        self._tokens.append(token_N.astype(f"<u{self._token_bytes}"))
        self._documents.append(cluster)
        if self._whole:
            everything = np.ones(len(token_N), np.uint8)
            self._trained.append(everything if trained_N is None else trained_N.astype(np.uint8))
        self._num_tokens += len(token_N)
        if self._num_tokens >= self._shard_tokens:
            self._write_shard()

    def finish(self) -> Manifest:
        """Write what is left and the manifest; return it."""
        if self._documents:
            self._write_shard()
        manifest = Manifest(
            tokenizer_sha256=tokenizer_sha256(self._tokenizer_json),
            end_id=self._end_id,
            whole=self._whole,
            num_tokens=sum(entry.num_tokens for entry in self._entries),
            num_documents=sum(entry.num_documents for entry in self._entries),
            sources=self._sources,
            clusters=dict(self._clusters),
            shards=tuple(self._entries),
        )
        (self._folder / TOKENIZER).write_text(self._tokenizer_json, encoding="utf-8")
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return manifest

    def _begin_shard(self) -> None:
        self._tokens: list[Any] = []
        self._trained: list[Any] = []
        self._documents: list[int] = []
        self._num_tokens = 0

    def _write_shard(self) -> None:
        layout = Layout(
            self._token_bytes, self._num_tokens, len(self._documents), has_trained=self._whole
        )
        sections = layout.sections()
        contents = {
            "tokens": np.concatenate(self._tokens),
            "offsets": np.cumsum([0, *map(len, self._tokens)]),
            "clusters": np.array(self._documents),
            "trained": np.concatenate(self._trained) if self._whole else np.empty(0),
        }
        data = bytearray(layout.size_bytes())
        header = layout.header()
        data[: len(header)] = header
        for name, (offset, dtype, count) in sections.items():
            view = np.frombuffer(data, dtype, count, offset) if count else None
            if view is not None:
                view[:] = contents[name]
        file = f"{len(self._entries):05}.shard"
        (self._folder / file).write_bytes(data)
        self._entries.append(
            ShardEntry(
                file=file,
                num_tokens=layout.num_tokens,
                num_documents=layout.num_documents,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        self._begin_shard()
