"""A small set of questions of every kind, written for these tests."""

from collections.abc import Iterator
from pathlib import Path

from heddle.tasks.evaluation import (
    Answer,
    Asked,
    Choices,
    Continuation,
    EvalSet,
    Generation,
    Passage,
    Question,
)

CONTEXT = "The loom holds the warp; the heddle lifts it; the shuttle"
CHOICES = [
    Choices(((f"{CONTEXT} {n}", " carries the weft."), (f"{CONTEXT} {n}", " sinks.")), n % 2)
    for n in range(6)
]
CONTINUATIONS = [Continuation(f"{CONTEXT} {n}", " carries") for n in range(4)]
PASSAGES = [Passage(" ".join([CONTEXT] * (1 + n)), 9 * (1 + n), 57 * (1 + n)) for n in range(3)]
TOO_LONG = Choices(((" ".join([CONTEXT] * 80), " a"), (CONTEXT, " b")), 0)


def says(word: str, **fields) -> Generation:
    """Ask for a word."""
    messages = ({"role": "user", "content": f"Say {word}."},)
    grade = lambda answer: {"accuracy": float(answer.text == word)}  # noqa: E731
    return Generation(**{"prompt": messages, "max_tokens": 4, "grade": grade} | fields)


def eval_set(questions: list[Question], *, metric: str = "accuracy", **fields) -> EvalSet:
    """Return a set of these questions, in two groups."""

    def ask(_: Path | None) -> Iterator[Asked]:
        for number, question in enumerate(questions):
            yield Asked(f"q{number}", question, "odd" if number % 2 else "even")

    given = {"name": "small", "title": "", "source": "", "licence": "", "chance": 0.5}
    return EvalSet(**given | {"metric": metric, "ask": ask} | fields)


def call_text(answer: Answer) -> str:
    """Return an answer's calls as text."""
    return " ".join(f"{call.name}{call.arguments}" for call in answer.calls)
