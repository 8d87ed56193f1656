"""What an evaluation set is: questions of four kinds, and how each is scored.

`sets.SETS` lists the sets, `evals.run` puts their questions to a model. The rules of scoring by
likelihood are those of EleutherAI's lm-evaluation-harness, v0.4,
https://github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from heddle.errors import ConfigError

Scores = Mapping[str, float]  # by the name of a metric


class Choices(NamedTuple):
    """Which of several continuations does the model hold to be the most likely?

    Attributes:
        pairs: (context, continuation); contexts are mostly one and the same.
        gold: the place of the right pair.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int

    def scores(self, logprobs: Sequence[float]) -> Scores:
        """Return whether the likeliest is right, as a whole and by its length in characters.

        A continuation's leading space does not count as its length. The first of equals is taken.
        """
        by_length = [
            logprob / len(continuation.lstrip(" "))
            for logprob, (_, continuation) in zip(logprobs, self.pairs, strict=True)
        ]
        return {
            "accuracy": float(logprobs.index(max(logprobs)) == self.gold),
            "accuracy_by_length": float(by_length.index(max(by_length)) == self.gold),
        }


class Continuation(NamedTuple):
    """How likely is the one right continuation, and would the model write it?"""

    context: str
    continuation: str


class Passage(NamedTuple):
    """How likely is a text from its beginning on, by word and by byte?

    Words and bytes are counted as its authors count them, perhaps before the text was tidied.
    """

    text: str
    num_words: int
    num_bytes: int


class Call(NamedTuple):
    """A function that the model called; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class Answer(NamedTuple):
    """What the model wrote."""

    text: str
    calls: tuple[Call, ...] = ()


class Generation(NamedTuple):
    """What does the model write, and how right is it? Always greedily.

    Attributes:
        prompt: text that the model goes on with as it stands, or messages in OpenAI's shape.
        max_tokens: how much it may write.
        grade: scores an answer; every question of a set has the same metrics.
        stop: texts before which the answer ends.
        tools: function tools in OpenAI's shape; only with messages.
    """

    prompt: str | tuple[Mapping[str, Any], ...]
    max_tokens: int
    grade: Callable[[Answer], Scores]
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


Question = Choices | Continuation | Passage | Generation


class Asked(NamedTuple):
    """A question, an id that is the same in every run, and the part of the set it belongs to."""

    id: str
    question: Question
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A set of questions.

    Attributes:
        name: what to call it on the command line.
        title: what it asks, in a few words.
        source: where its questions come from.
        licence: of the questions.
        metric: the metric to report first: a key of the questions' scores, or "perplexity" (of
            continuations), "word_perplexity" or "byte_perplexity" (of passages).
        chance: that metric's value for guessing; None where guessing gets nowhere.
        files: what it needs in the data folder; any of them may also be packed (.gz, .xz, .zst).
        ask: yields the questions in a fixed order, given the data folder (None without files).
        cluster: the routing cluster whose skill it tests, if it is one's.
        usual_limit: how many questions to ask unless told; None for all there are.
    """

    name: str
    title: str
    source: str
    licence: str
    metric: str
    chance: float | None
    ask: Callable[[Path | None], Iterator[Asked]]
    files: tuple[str, ...] = ()
    cluster: str | None = None
    usual_limit: int | None = None

    def questions(self, data: Path | None, *, limit: int | None = None) -> Iterator[Asked]:
        """Return the first `limit` questions, or as many as is usual.

        Raises ConfigError when there must be a data folder, and, as they are read, DataError.
        """
        if self.files and data is None:
            raise ConfigError(
                f"{self.name} needs {' and '.join(self.files)}: name their folder with --data "
                "(docs/eval.md says how to make them)"
            )
        return islice(self.ask(data), self.usual_limit if limit is None else limit)
