"""A place in a stream of batches, small and JSON, from which the stream goes on bit for bit."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heddle.errors import DataError


@dataclass(kw_only=True)
class Cursor:
    """What has been read. Epochs and places within them follow from the counts.

    Attributes:
        stream: what must be the same to go on: seed, sizes, parts. Checked by `from_json`.
        num_batches: batches so far, of all ranks.
        num_documents, num_tokens: drawn so far, by part.
        part, document, offset: the document that is not packed to its end; part is None if there
            is none.
    """

    stream: dict[str, Any]
    num_batches: int
    num_documents: dict[str, int]
    num_tokens: dict[str, int]
    part: str | None = None
    document: int = 0
    offset: int = 0

    @classmethod
    def start(cls, stream: Mapping[str, Any], parts: Iterable[str]) -> "Cursor":
        """Return the place before the first batch."""
        counts = dict.fromkeys(parts, 0)
        return cls(
            stream=dict(stream), num_batches=0, num_documents=counts, num_tokens=dict(counts)
        )

    def to_json(self) -> dict[str, Any]:
        """Return a copy as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], stream: Mapping[str, Any]) -> "Cursor":
        """Read a cursor back. Raises DataError, naming the field, if it is of another stream."""
        saved = fields.get("stream")
        if not isinstance(saved, Mapping):
            raise DataError("the saved place in the data is damaged: stream is missing")
        for field in sorted({*saved, *stream}):
            if saved.get(field) != stream.get(field):
                raise DataError(
                    f"the data changed since the run was saved: {field} was "
                    f"{saved.get(field)!r} and is {stream.get(field)!r}"
                )
        try:
            return cls(**copy.deepcopy(dict(fields)))
        except TypeError as error:
            raise DataError(f"the saved place in the data is damaged: {error}") from error
