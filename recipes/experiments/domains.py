"""Five small domains, one a cluster: what the experiments on routing read, a byte a token.

All write the same sixteen letters. A sentence is a mark that tells the domain, a pair of letters
and what follows from the pair; a document is cut out of such a text anywhere. So no letter says
anything to the gate but through what stands before it, and those before the first mark say nothing.
What is right is fixed once, for all seeds, in tables and rules; a held-out document is one that was
never read, about the same world.
"""

import hashlib
from collections.abc import Callable
from random import Random

import numpy as np

from heddle.model.config import CLUSTERS
from heddle.tasks.task import Split, split_of
from heddle.train.data.document import Document, next_tokens

DOCUMENT_TOKENS = 64

LETTERS = "abcdefghijklmnop"
MARKS = ":>+*,?"
PAIRS = [first + second for first in LETTERS for second in LETTERS]
GRID = 4  # a letter is a cell of a square of so many cells a side; opposite sides meet
WAYS = {"a": (0, 1), "b": (1, 0), "c": (0, -1), "d": (-1, 0)}
LIKELY = (8, 4, 2, 1)  # how often a pair is followed by each of its four letters

_WORLD = Random("the world that all seeds share")
_FACTS = {pair: _WORLD.choice(LETTERS) for pair in PAIRS}
_IS_SAFE = {pair: _WORLD.random() < 0.5 for pair in PAIRS}
_NEXT = {pair: _WORLD.sample(LETTERS, len(LIKELY)) for pair in PAIRS}


def fact(rng: Random) -> str:
    """Say what belongs to a pair; nothing but the table tells."""
    pair = rng.choice(PAIRS)
    return f":{pair}{_FACTS[pair]}"


def walk(rng: Random) -> str:
    """Say which cell a step leads to from another."""
    cell, way = rng.randrange(GRID * GRID), rng.choice(list(WAYS))
    x, y = divmod(cell, GRID)
    right, up = WAYS[way]
    reached = (x + right) % GRID * GRID + (y + up) % GRID
    return f">{LETTERS[cell]}{way}{LETTERS[reached]}"


def calculation(rng: Random) -> str:
    """Add or multiply two letters, which stand for their places, modulo sixteen."""
    a, b = rng.randrange(len(LETTERS)), rng.randrange(len(LETTERS))
    mark, result = rng.choice((("+", a + b), ("*", a * b)))
    return f"{mark}{LETTERS[a]}{LETTERS[b]}{LETTERS[result % len(LETTERS)]}"


def verse(rng: Random) -> str:
    """Make a word in which two letters call for a third: much is likely, nothing is right."""
    word = rng.choice(PAIRS)
    for _ in range(3):
        word += rng.choices(_NEXT[word[-2:]], LIKELY)[0]
    return f",{word}"


def request(rng: Random) -> str:
    """Ask for a pair, and be allowed or refused."""
    pair = rng.choice(PAIRS)
    return f"?{pair}{'y' if _IS_SAFE[pair] else 'n'}"


SENTENCES: dict[str, Callable[[Random], str]] = {
    "factual": fact,
    "spatial": walk,
    "symbolic": calculation,
    "creative": verse,
    "safety": request,
}


class DomainDocuments:
    """Pieces of one domain's text, of equal length, as a source of documents without end.

    `label` is the place in `CLUSTERS` that they are said to belong to; None: one drawn for each.
    """

    num_documents = None
    whole = True

    def __init__(self, domain: str, *, split: Split, seed: int = 0, label: int | None):
        self.domain, self.label = domain, label
        self._split: Split = split
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        """What changes when the documents do."""
        settings = (self.domain, self._split, self._seed, self.label)
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def length(self, index: int) -> int:
        """Return a document's number of tokens."""
        return DOCUMENT_TOKENS

    def read(self, index: int) -> Document:
        """Return a document, drawn until one belongs to the split by its own text."""
        rng = Random(f"{self.domain}/{self._split}/{self._seed}/{index}")
        while split_of("domains", text := _piece(rng, SENTENCES[self.domain])) != self._split:
            pass
        token_N = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        label = rng.randrange(len(CLUSTERS)) if self.label is None else self.label
        return Document(token_N, next_tokens(token_N), label)


def _piece(rng: Random, sentence: Callable[[Random], str]) -> str:
    """Return a document's worth of sentences, beginning somewhere in the first of them."""
    first = sentence(rng)
    text = first[rng.randrange(len(first)) :]
    while len(text) < DOCUMENT_TOKENS:
        text += sentence(rng)
    return text[:DOCUMENT_TOKENS]
