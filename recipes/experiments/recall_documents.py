"""Documents in which something said early is asked for later, a token a byte.

Facts: notes of four pairs, a capital letter and its digit, between prose. A letter keeps its digit
throughout a document, so wherever one is said again its digit can be known, and only there is it
learned. Passkeys are those of `heddle.tasks.recall`. Used by the memory experiment.
"""

from collections.abc import Sequence
from math import exp, log
from random import Random
from string import ascii_uppercase, digits
from typing import NamedTuple

import numpy as np
import torch

from heddle.tasks.recall import PASSKEY, filler
from heddle.tasks.task import Split
from heddle.train.data.document import IGNORED, NO_CLUSTER, Document, next_tokens
from heddle.train.data.pack import TrainBatch, pack_whole
from recipes.experiments.chains import byte_tokenizer

PAIRS_A_NOTE = 4
NOTE_BYTES = 3 * PAIRS_A_NOTE
QUESTION = " What is the passkey?\n"
WEIGHT_OF_THE_REST = 0.1
BYTES_A_WORD = 5.4  # of the filling prose, on average, with the space behind it


class Text(NamedTuple):
    """A document and the offsets of the bytes that are to be known."""

    said: str
    asked: tuple[int, ...]


def facts_to_learn(rng: Random, length: int) -> Text:
    """Return a text of notes, most of whose letters are old, and of prose of every length."""
    values: dict[str, str] = {}
    parts, asked, at = [], [], 0
    while at < length:
        prose = _gap(rng, length)
        parts.append(prose)
        at += len(prose)
        old = rng.sample(list(values), min(len(values), rng.randint(1, PAIRS_A_NOTE)))
        new = [letter for letter in ascii_uppercase if letter not in values]
        for letter in old + rng.sample(new, min(len(new), PAIRS_A_NOTE - len(old))):
            if letter in values:
                asked.append(at + 1)
            parts.append(f"{letter}{values.setdefault(letter, str(rng.randrange(10)))} ")
            at += 3
    return _cut("".join(parts), asked, length)


def sayings_to_learn(rng: Random, length: int) -> Text:
    """Return a text of random sayings, half of them said before, and of prose of every length.

    What is said again can be known from its third byte on: many labels, so that looking back is
    learned soon.
    """
    known: list[str] = []
    parts, asked, at = [], [], 0
    while at < length:
        prose = _gap(rng, length) if known else ""
        at += len(prose)
        if known and rng.random() < 0.6:
            saying = rng.choice(known)
            asked += range(at + 2, at + len(saying))
        else:
            saying = "".join(rng.choices(ascii_uppercase + digits, k=rng.randint(6, 16)))
            known.append(saying)
        parts += [prose, saying]
        at += len(saying)
    return _cut("".join(parts), asked, length)


def facts_to_test(rng: Random, distance: int) -> Text:
    """Return a text whose first two notes are asked about `distance` bytes later, in other order.

    Between them, and between prose, are notes of other letters, three at most.
    """
    letters = rng.sample(ascii_uppercase, 5 * PAIRS_A_NOTE)
    pairs = [f"{letter}{rng.randrange(10)} " for letter in letters]
    told, others = pairs[: 2 * PAIRS_A_NOTE], pairs[2 * PAIRS_A_NOTE :]
    gap = distance - 2 * NOTE_BYTES
    num_notes = min(3, gap // (2 * NOTE_BYTES))
    prose = _prose(rng, gap - num_notes * NOTE_BYTES)
    cuts = sorted(rng.randint(0, len(prose)) for _ in range(num_notes))
    between = [prose[low:high] for low, high in zip([0, *cuts], [*cuts, len(prose)], strict=True)]
    notes = ["".join(others[4 * i : 4 * i + 4]) for i in range(num_notes)] + [""]
    start = "".join(told)
    middle = "".join(piece + note for piece, note in zip(between, notes, strict=True))
    asked = rng.sample(told, len(told))
    first = len(start) + len(middle)
    return Text(
        start + middle + "".join(asked), tuple(first + 3 * i + 1 for i in range(len(asked)))
    )


def passkey(split: Split, index: int, distance: int, *, seed: int = 0) -> Text:
    """Return a passkey with about `distance` bytes of prose before the question, and its answer."""
    words = max(PASSKEY.difficulties[0], round(distance / BYTES_A_WORD))
    example = PASSKEY.example(split, index, seed=seed, difficulty=words)
    first = len(example.prompt)
    return Text(example.prompt + example.answer, tuple(range(first, first + len(example.answer))))


def passkey_to_learn(rng: Random, length: int, *, seed: int) -> Text:
    """Return a passkey and its question, asked again behind more prose until the text is full."""
    index, distance = rng.randrange(1 << 30), rng.randint(1, length // 2)
    said, asked = passkey("train", index, distance, seed=seed)
    answer = said[asked[0] :]
    while len(said) < length:
        said += f"\n{_gap(rng, length)}{QUESTION}"
        asked += tuple(range(len(said), len(said) + len(answer)))
        said += answer
    return _cut(said, asked, length)


def lesson(texts: Sequence[Text]) -> TrainBatch:
    """Return a batch that learns what is asked and, a tenth as much, how everything goes on.

    What prose says next depends on the byte before; without that, looking one byte back, on which
    finding a pair again builds, was not learned at all.
    """
    batch = questions(texts)
    target_T = batch.token_T.roll(-1)
    target_T[torch.tensor(batch.bounds_S1[1:]) - 1] = IGNORED
    is_asked_T = batch.target_T != IGNORED
    return batch._replace(
        target_T=target_T, weight_T=torch.where(is_asked_T, 1.0, WEIGHT_OF_THE_REST)
    )


def questions(texts: Sequence[Text]) -> TrainBatch:
    """Return a batch, a token a byte, whose targets are what is asked."""
    tokenizer = byte_tokenizer()
    documents = []
    for text in texts:
        token_N = np.array(tokenizer.encode(text.said))
        asked_N = np.zeros(len(token_N), dtype=bool)
        asked_N[list(text.asked)] = True
        documents.append(Document(token_N, next_tokens(token_N, asked_N), NO_CLUSTER))
    return pack_whole(documents)


def _prose(rng: Random, num_bytes: int) -> str:
    """Return filling prose of exactly so many bytes."""
    return filler(rng, num_bytes // 3 + 2)[: max(0, num_bytes - 1)].ljust(num_bytes)


def _gap(rng: Random, length: int) -> str:
    """Return prose of any size up to a quarter of a text, small ones as likely as large ones."""
    return _prose(rng, round(exp(rng.uniform(0, log(length / 4)))))


def _cut(said: str, asked: Sequence[int], length: int) -> Text:
    return Text(said[:length], tuple(offset for offset in asked if offset < length))
