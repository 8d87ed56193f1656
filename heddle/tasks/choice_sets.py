"""Sets of several choices, scored by likelihood: ARC, PIQA, BoolQ, MMLU, WinoGrande and others.

Prompts are those of lm-evaluation-harness v0.4,
https://github.com/EleutherAI/lm-evaluation-harness/tree/main/lm_eval/tasks
Rows hold `prompt`, `choices` and `answer`, one of the choices.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from heddle.tasks.data_folder import Ask, Row, asked_from, numbered_rows, reading
from heddle.tasks.evaluation import Asked, Choices

_LETTERS = "ABCD"


def choices_ask(file: str, context: Callable[[Row], str]) -> Ask:
    """Return what asks which of a row's choices goes on from its context, after a space."""

    def question(row: Row) -> Choices:
        before = context(row)
        return Choices(tuple((before, f" {choice}") for choice in row["choices"]), _gold(row))

    return asked_from(file, question)


def as_question(row: Row) -> str:
    """Return the context of ARC and PIQA."""
    return f"Question: {row['prompt']}\nAnswer:"


def as_it_stands(row: Row) -> str:
    """Return the context of OpenBookQA and COPA: the choice completes a sentence."""
    return row["prompt"]


def as_passage(row: Row) -> str:
    """Return the context of BoolQ, whose rows hold "Passage: ...", a new line, "Question: ...?"."""
    return f"{row['prompt'].removeprefix('Passage: ')}\nAnswer:"


def winogrande_question(row: Row) -> Choices:
    """Ask after which beginning (the choices) the ending is likelier.

    Partial evaluation, of Trinh and Le 2018 (arXiv:1806.02847).
    """
    ending = f" {row['meta']['continuation']}"
    return Choices(tuple((beginning, ending) for beginning in row["choices"]), _gold(row))


def mmlu_ask(file: str, *, shots_file: str | None = None) -> Ask:
    """Return what asks for the letter of the right choice, after worked questions of its subject.

    Layout of Hendrycks et al. 2020 (arXiv:2009.03300). Rows hold `meta.subject`.
    """

    def ask(data: Path | None) -> Iterator[Asked]:
        shots: dict[str, list[str]] = defaultdict(list)
        for row, where in numbered_rows(data, shots_file) if shots_file else ():
            with reading(where):
                shots[_subject(row)].append(f"{_listed(row)} {_LETTERS[_gold(row)]}\n\n")

        def question(row: Row) -> Choices:
            subject = _subject(row).replace("_", " ")
            context = (
                "The following are multiple choice questions (with answers) about "
                f"{subject}.\n\n{''.join(shots[_subject(row)])}{_listed(row)}"
            )
            return Choices(tuple((context, f" {letter}") for letter in _LETTERS), _gold(row))

        yield from asked_from(file, question, group=_subject)(data)

    return ask


def _listed(row: Row) -> str:
    lines = [f"{letter}. {text}\n" for letter, text in zip(_LETTERS, row["choices"], strict=True)]
    return f"{row['prompt'].strip()}\n{''.join(lines)}Answer:"


def _subject(row: Row) -> str:
    return row["meta"]["subject"]


def _gold(row: Row) -> int:
    """Texts of choices may be equal, so that the place says more, where it is given."""
    gold = row.get("meta", {}).get("gold")
    if gold is not None and row["choices"][gold] != row["answer"]:
        raise ValueError("meta.gold is not the place of the answer")
    return row["choices"].index(row["answer"]) if gold is None else gold
