"""Chats as documents of which only the assistant's turns are learned.

Called by `prepare`, `chat_documents`, `task_documents` and `pairs`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from heddle.errors import DataError, RequestError
from heddle.tasks.jsonl import read_example
from heddle.text.chat import ChatFormat

Row = Mapping[str, Any]
Learned = tuple[list[int], list[bool]]  # token ids; which of them are the assistant's


def read_messages(row: Row, *, where: str) -> list[dict[str, Any]]:
    """Return a row's chat in OpenAI's shape; a prompt and an answer make two turns.

    A message may hold one `tool_call` of name and arguments in place of `tool_calls`. Raises
    DataError, naming `where` and the field, for other rows.
    """
    if "messages" not in row:
        example = read_example(row, where=where)
        answer = f"{example.reasoning}\n\n{example.answer}".lstrip()
        return [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": answer},
        ]
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise DataError(f"{where}: messages must be a list of objects")
    return [_read_message(message, where) for message in messages]


def learn_row(chat: ChatFormat, row: Row, *, eos_ids: Collection[int], where: str) -> list[Learned]:
    """Return a row's chat as `learn_assistant` does. Raises DataError, naming `where`."""
    messages = read_messages(row, where=where)
    try:
        learned = learn_assistant(chat, messages, eos_ids=eos_ids)
    except RequestError as error:
        raise DataError(f"{where}: {error}") from error
    if not learned:
        raise DataError(f"{where}: messages hold no turn of the assistant to learn")
    return learned


def learn_assistant(
    chat: ChatFormat, messages: Sequence[dict[str, Any]], *, eos_ids: Collection[int]
) -> list[Learned]:
    """Return a chat as one document, learned from where an answer begins to the end of its turn.

    Templates that write earlier turns anew (and leave out their reasoning, say) get a document an
    answer, each the prompt that serving would give. What follows the last answer is left out: it is
    neither learned nor read before anything learned. Raises RequestError for a chat that the
    template does not allow.
    """
    places = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    parts = [render_answer(chat, messages[: place + 1], eos_ids) for place in places]
    if not parts:
        return []
    full, _ = parts[-1]
    if any(full[: len(ids)] != ids for ids, _ in parts):
        return parts
    learned = [False] * len(full)
    for _, part in parts:
        learned[: len(part)] = [a or b for a, b in zip(learned, part, strict=False)]
    return [(full, learned)]


def render_answer(
    chat: ChatFormat, messages: Sequence[dict[str, Any]], eos_ids: Collection[int]
) -> Learned:
    """Return a chat up to its last message, an answer, of which alone is learned.

    What follows the answer's end token is not kept. Raises RequestError as `learn_assistant` does.
    """
    prompt = chat.render(messages[:-1])
    ids = chat.render(messages, add_generation_prompt=False)
    start = _num_common(prompt, ids)
    if start < len(prompt) and start < len(chat.render(messages[:-1], add_generation_prompt=False)):
        raise RequestError(
            "the chat template writes a question anew once it is answered, so that one cannot tell "
            "where the answer begins"
        )
    ends = np.flatnonzero(np.isin(ids[start:], list(eos_ids)))
    stop = start + int(ends[-1]) + 1 if len(ends) else len(ids)
    return ids[:stop], [start <= place for place in range(stop)]


def _num_common(first: list[int], second: list[int]) -> int:
    num_common = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        num_common += 1
    return num_common


def _read_message(message: dict[str, Any], where: str) -> dict[str, Any]:
    read = {key: value for key, value in message.items() if key != "tool_call"}
    if call := message.get("tool_call"):
        if not isinstance(call, dict) or not {"name", "arguments"} <= call.keys():
            raise DataError(f"{where}: tool_call must be an object with name and arguments")
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        read["tool_calls"] = [{"type": "function", "function": function}]
    if isinstance(read.get("content"), list) and message.get("role") == "tool":
        read["content"] = json.dumps(read["content"], ensure_ascii=False)
    return read
