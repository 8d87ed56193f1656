"""What a task is: examples by number, held out by content, and a score for a reply.

Used by `train.data` (as training text), by evaluations and as the reward of reinforcement learning.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any, Literal, get_args

from heddle.errors import ConfigError, DataError

Split = Literal["train", "validation", "test"]

# Of ten buckets of instances: eight to learn from, one to tune on, one to report.
_NUM_BUCKETS = 10
_SPLIT_OF_BUCKET: dict[int, Split] = {8: "validation", 9: "test"}
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question and its answer.

    Attributes:
        prompt: the question; the answer follows it directly, without a space between.
        answer: the shortest right reply.
        difficulty: the level it was drawn at.
        identity: what makes it this instance whatever its wording; the prompt if empty. Instances
            of one identity are in one split.
        reasoning: what to write before the answer, if its source has that.
        labels: (offset, label) pairs for supervision at every position: what the model should know
            once it has read the prompt up to and with that character. One ASCII letter or digit.
        extra: whatever else the task's grade needs.
    """

    prompt: str
    answer: str
    difficulty: int = 0
    identity: str = ""
    reasoning: str = ""
    labels: tuple[tuple[int, str], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


Draw = Callable[[Random, int], Example]  # an instance at a difficulty, from random numbers alone
Source = Callable[[Split, int, int, int], Example]  # split, seed, difficulty, index
Grade = Callable[[Example, str], float]


def same_answer(example: Example, reply: str) -> float:
    """Return 1 if the reply is the answer, or ends its last line with it, else 0.

    What stands before the last "answer", "is" or "=" of that line does not count, nor do case,
    spaces, quotes and a full stop. Numbers are compared by value. `extra["aliases"]` are right too.
    """
    last_line = reply.strip().rsplit("\n", 1)[-1]
    said = {_plain(reply), _plain(re.split(r"\banswer\b|\bis\b|=", last_line, flags=re.I)[-1])}
    accepted = {_plain(answer) for answer in (example.answer, *example.extra.get("aliases", ()))}
    return float(bool(said & accepted))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of question.

    Attributes:
        name: its key in the table.
        cluster: the routing cluster that its tokens belong to, or None.
        instruction: what to tell a chat model before the prompt; empty if the prompt says it all.
        needs: what a difficulty of n asks for, as "n hops back".
        difficulties: the levels on offer.
        source: makes an example from split, seed, difficulty and index.
        grade: scores a reply from 0 to 1.
        num_examples: how many there are in each split; None if there is no end to them.
    """

    name: str
    cluster: str | None
    instruction: str
    needs: str
    difficulties: range
    source: Source
    grade: Grade = same_answer
    num_examples: Mapping[Split, int] | None = None

    def example(
        self, split: Split, index: int, *, seed: int = 0, difficulty: int | None = None
    ) -> Example:
        """Return example number `index` of a split; without a difficulty, of the lowest.

        It depends on the arguments alone, so that nothing need be kept to go on where one stopped.
        Raises ConfigError for a split, difficulty or index that does not exist.
        """
        level = self.difficulties[0] if difficulty is None else difficulty
        if split not in get_args(Split):
            raise ConfigError(f"split must be train, validation or test, not {split!r}")
        if level not in self.difficulties:
            raise ConfigError(
                f"difficulty of {self.name} must be from {self.difficulties[0]} to "
                f"{self.difficulties[-1]}, not {level}"
            )
        if index < 0 or (self.num_examples and index >= self.num_examples[split]):
            raise ConfigError(f"{self.name} has no {split} example number {index}")
        return self.source(split, seed, level, index)

    def examples(
        self,
        split: Split,
        *,
        seed: int = 0,
        difficulty: int | None = None,
        count: int | None = None,
    ) -> Iterator[Example]:
        """Yield the first `count` examples of a split, or all if there is an end to them."""
        available = self.num_examples[split] if self.num_examples else None
        if count is None and available is None:
            raise ConfigError(f"{self.name} has no end of examples: say how many (count)")
        wanted = [number for number in (count, available) if number is not None]
        for index in range(min(wanted)):
            yield self.example(split, index, seed=seed, difficulty=difficulty)

    def asked(self, example: Example) -> str:
        """Return what a chat model is asked: the instruction, if there is one, and the prompt."""
        return f"{self.instruction}\n\n{example.prompt}".strip()

    def score(self, example: Example, reply: str) -> float:
        """Return how right a reply is, from 0 to 1."""
        return self.grade(example, reply)


def held_out(name: str, draw: Draw) -> Source:
    """Return the source that draws instances until one belongs to the wanted split.

    The split is a hash of the instance itself, so no seed, index or difficulty can bring a
    held-out instance into training.
    """

    def source(split: Split, seed: int, difficulty: int, index: int) -> Example:
        for attempt in range(_MAX_ATTEMPTS):
            rng = Random(_number(f"{name}/{seed}/{difficulty}/{index}/{attempt}"))
            example = draw(rng, difficulty)
            if split_of(name, example.identity or example.prompt) == split:
                return example
        raise DataError(
            f"{name} found no {split} example at difficulty {difficulty}: try a higher one"
        )

    return source


def split_of(name: str, identity: str) -> Split:
    """Return the split that an instance belongs to, whoever draws it."""
    return _SPLIT_OF_BUCKET.get(_number(f"{name}/{identity}") % _NUM_BUCKETS, "train")


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _plain(text: str) -> str:
    words = " ".join(text.casefold().split()).strip(" .:*`'\"$")
    try:
        return repr(float(words.replace(",", "")))
    except ValueError:
        return words
