"""A JSONL file as a task: rows with a prompt and an answer, with choices, or with messages.

Fields of a row, all but the first two optional: `prompt`, `answer` (text, a number, or a list whose
parts belong together), `choices` (texts; the answer is one of them), `context` (text before the
prompt), `reasoning` (text before the answer), `aliases` (further right answers), `cluster`. Instead
of prompt and answer a row may hold `messages` in OpenAI's shape, whose last one is the assistant's.
"""

import functools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from heddle.errors import DataError
from heddle.tasks.rows import read_rows
from heddle.tasks.task import Example, Split, Task, split_of


def task(path: Path) -> Task:
    """Return the task of a file, its rows split by content.

    A seed decides the order. Raises DataError for a file that is missing, empty or malformed.
    """
    by_split: dict[Split, list[Example]] = {split: [] for split in get_args(Split)}
    clusters: set[str | None] = set()
    name = path.name.split(".")[0]
    for number, row in enumerate(read_rows(path), 1):
        example = read_example(row, where=f"{path}, row {number}")
        by_split[split_of(name, example.identity or example.prompt)].append(example)
        clusters.add(row.get("cluster"))
    if not any(by_split.values()):
        raise DataError(f"{path} holds no rows")

    def source(split: Split, seed: int, difficulty: int, index: int) -> Example:
        examples = by_split[split]
        return examples[_order(len(examples), seed)[index]]

    return Task(
        name=name,
        cluster=clusters.pop() if len(clusters) == 1 else None,
        instruction="",
        needs="none: rows have no levels",
        difficulties=range(0, 1),
        source=source,
        num_examples={split: len(examples) for split, examples in by_split.items()},
    )


def read_example(row: Mapping[str, Any], *, where: str) -> Example:
    """Return a row's example. Raises DataError, naming `where` and the field, if it has none."""
    if "messages" in row:
        return _from_messages(row["messages"], where)
    prompt = _text(row, "prompt", where)
    parts = [_text(row, "context", where)] if row.get("context") else []
    choices = row.get("choices") or []
    listed = "".join(f"\n- {choice}" for choice in choices)
    parts.append(f"{prompt}\nAnswer with one of:{listed}" if choices else prompt)
    answer = row.get("answer")
    if isinstance(answer, list):
        answer = ", ".join(map(str, answer))
    if answer is None or answer == "":
        raise DataError(f"{where}: answer is missing")
    return Example(
        prompt="\n\n".join(parts),
        answer=str(answer),
        reasoning=_text(row, "reasoning", where) if row.get("reasoning") else "",
        extra={"aliases": tuple(map(str, row.get("aliases") or ()))},
    )


def _from_messages(messages: Any, where: str) -> Example:
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise DataError(f"{where}: messages must be a list of objects")
    *asked, last = messages or [{}]
    if not asked or last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        raise DataError(f"{where}: messages must end with the assistant's text after a question")
    return Example(
        prompt=str(asked[-1].get("content") or ""),
        answer=last["content"],
        identity=repr(asked),
        extra={"messages": asked},
    )


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {field} is missing or not text")
    return value


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
