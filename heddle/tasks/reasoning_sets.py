"""Word problems and puzzles, answered in writing: GSM8K, and reasoning-gym from a file."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path

from heddle.tasks import reasoning_gym
from heddle.tasks.data_folder import Row, asked_from, numbered_rows, reading
from heddle.tasks.evaluation import Answer, Asked, Generation, Scores

GSM8K_FILE = "gsm8k_test.jsonl"
GSM8K_SHOTS_FILE = "gsm8k_train.jsonl"

_NUM_SHOTS = 5
_MAX_TOKENS = 256  # as lm-evaluation-harness's default; worked solutions are mostly under 200
_STATED = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?\$?[0-9][0-9.,]*")
_SPARE_TOKENS = 64  # beyond a puzzle's answer: room for a sentence around it


def ask_gsm8k(data: Path | None) -> Iterator[Asked]:
    """Yield problems after five worked ones, as text that goes on (Cobbe et al., arXiv:2110.14168).

    The worked ones are the first of the training file, whole: its `reasoning_calc` is the authors'
    solution with its calculator marks. The prompt is that of lm-evaluation-harness v0.4.
    """
    shots = []
    for row, where in islice(numbered_rows(data, GSM8K_SHOTS_FILE), _NUM_SHOTS):
        with reading(where):
            solution = f"{row['reasoning_calc']}\n#### {row['answer']}"
            shots.append(f"Question: {row['prompt']}\nAnswer: {solution}\n\n")

    def question(row: Row) -> Generation:
        prompt = f"{''.join(shots)}Question: {row['prompt']}\nAnswer:"
        return Generation(prompt, _MAX_TOKENS, _number_grade(row), stop=("Question:",))

    yield from asked_from(GSM8K_FILE, question)(data)


def gsm8k_chat_question(row: Row) -> Generation:
    """Ask a chat model to reason and to end with the mark of the data set."""
    asked = f"{row['prompt']}\n\nReason step by step. Then write #### and the answer as a number."
    return Generation(({"role": "user", "content": asked},), 2 * _MAX_TOKENS, _number_grade(row))


def reasoning_gym_question(row: Row) -> Generation:
    """Ask a puzzle; scorers read `meta.rg_metadata`, without it the answer alone is right."""
    entry = {
        "question": row["prompt"],
        "answer": row["answer"],
        "metadata": row["meta"].get("rg_metadata", {}),
    }
    name = puzzle_name(row)

    def grade(answer: Answer) -> Scores:
        return {"accuracy": reasoning_gym.score(name, answer.text, entry)}

    asked = f"{reasoning_gym.INSTRUCTION}\n\n{row['prompt']}".strip()
    max_tokens = len(row["answer"]) + _SPARE_TOKENS
    return Generation(({"role": "user", "content": asked},), max_tokens, grade)


def puzzle_name(row: Row) -> str:
    """Return the package's name for a row's kind of puzzle."""
    return row["meta"]["task"]


def _number_grade(row: Row) -> Callable[[Answer], Scores]:
    right = _value(row["answer"])
    if right is None:
        raise ValueError(f"the answer {row['answer']!r} is no number")

    def grade(answer: Answer) -> Scores:
        stated = _STATED.search(answer.text)
        numbers = _NUMBER.findall(answer.text)
        return {
            "accuracy": float(stated is not None and _value(stated[1]) == right),
            "accuracy_last_number": float(bool(numbers) and _value(numbers[-1]) == right),
        }

    return grade


def _value(text: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[$,]", "", text).rstrip("."))
    except InvalidOperation:
        return None
