"""Preference pairs: a prompt, the answer that people prefer and one that they do not, from JSONL.

A row holds `prompt`, a text or a list of messages in OpenAI's shape, `chosen` and `rejected`, both
texts. Called by `preference`.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from heddle.errors import DataError, RequestError
from heddle.tasks.rows import read_rows
from heddle.text.chat import ChatFormat
from heddle.train.answers import Answer
from heddle.train.data.chat import read_messages, render_answer


class Pair(NamedTuple):
    """Two answers to one prompt."""

    chosen: Answer
    rejected: Answer


def read_pairs(
    path: Path, chat: ChatFormat, *, end_ids: Collection[int], max_tokens: int
) -> list[Pair]:
    """Read a file of pairs as a model's chats.

    Raises DataError, naming the row, for one that is malformed or longer than `max_tokens`.
    """
    pairs = [
        _read_pair(row, chat, end_ids, max_tokens, where=f"{path}, row {number}")
        for number, row in enumerate(read_rows(path), 1)
    ]
    if not pairs:
        raise DataError(f"{path} holds no rows")
    return pairs


def _read_pair(
    row: dict[str, Any],
    chat: ChatFormat,
    end_ids: Collection[int],
    max_tokens: int,
    *,
    where: str,
) -> Pair:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt:
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise DataError(f"{where}: prompt must be a text or a list of messages")
    asked = read_messages({"messages": prompt}, where=where)
    for field in ("chosen", "rejected"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise DataError(f"{where}: {field} is missing or not text")
    if row["chosen"] == row["rejected"]:
        raise DataError(f"{where}: chosen and rejected are the same")
    answers = []
    for field in ("chosen", "rejected"):
        messages = [*asked, {"role": "assistant", "content": row[field]}]
        try:
            tokens, learned = render_answer(chat, messages, end_ids)
        except RequestError as error:
            raise DataError(f"{where}: {error}") from error
        if len(tokens) > max_tokens:
            raise DataError(
                f"{where}: prompt and {field} answer are {len(tokens)} tokens, and max_tokens is "
                f"{max_tokens}: raise it, or leave the row out"
            )
        answers.append(Answer(tokens, learned.index(True)))
    return Pair(*answers)
