"""Which document comes next: sources mixed by their share of the tokens, each in a seeded order.

The order of documents depends on the seed and on how many were taken, on nothing else. Called by
`stream`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from heddle.errors import ConfigError
from heddle.train.data.cursor import Cursor
from heddle.train.data.document import Document
from heddle.train.data.order import Permutation

_BLOCK = 1024  # items of a permutation that are computed at once


class Source(Protocol):
    """Documents by number: `shards.Shards` or `task_documents.TaskDocuments`."""

    @property
    def num_documents(self) -> int | None:
        """How many there are; None if there is no end to them."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a document makes sense only in one piece."""
        ...

    @property
    def fingerprint(self) -> str:
        """What changes when the documents do."""
        ...

    def length(self, index: int) -> int:
        """Return a document's number of tokens, without reading it if possible."""
        ...

    def read(self, index: int) -> Document:
        """Return a document."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """A source's place in a mix.

    Attributes:
        source: where its documents come from.
        share: of the tokens, relative to the other parts' shares.
        loss_weight: how much each of its tokens counts in the loss.
    """

    source: Source
    share: float = 1.0
    loss_weight: float = 1.0

    def __post_init__(self):
        if self.share <= 0 or self.loss_weight <= 0:
            raise ConfigError(
                f"share and loss_weight must be positive, not {self.share} and {self.loss_weight}"
            )


class Draw(NamedTuple):
    """The next document: its part's name, its number in the source, its length."""

    part: str
    document: int
    length: int


class Mix:
    """Draws documents: each time from the part that is furthest behind its share.

    A part with an end is read without replacement, in a new order each epoch.
    """

    def __init__(self, parts: Mapping[str, Part], *, seed: int):
        if not parts:
            raise ConfigError("a mix needs at least one part")
        self.parts = dict(parts)
        self._seed = seed
        self._blocks: dict[str, tuple[int, list[int]]] = {}

    def draw(self, cursor: Cursor) -> Draw:
        """Take the next document and count it in the cursor."""
        name = min(self.parts, key=lambda name: cursor.num_tokens[name] / self.parts[name].share)
        source = self.parts[name].source
        document = self._document(name, source.num_documents, cursor.num_documents[name])
        length = source.length(document)
        cursor.num_documents[name] += 1
        cursor.num_tokens[name] += length
        return Draw(name, document, length)

    def _document(self, name: str, size: int | None, taken: int) -> int:
        if size is None:
            return taken
        first = taken - taken % size % _BLOCK  # a block never spans two epochs
        known_first, block = self._blocks.get(name, (-1, []))
        if known_first != first:
            epoch, place = divmod(first, size)
            order = Permutation(size, f"{self._seed}/{name}/{epoch}")
            block = order.items(place, min(place + _BLOCK, size)).tolist()
            self._blocks[name] = first, block
        return block[taken - first]
