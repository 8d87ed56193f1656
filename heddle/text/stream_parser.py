"""A model's answer, taken apart while it streams: reasoning, content, tool calls.

Made by `chat.ChatFormat.parser`, fed by the server. The inverse of how `chat` renders an
assistant's message.
"""

import json
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heddle.text.json_values import is_object, load_or_none
from heddle.text.stops import num_held
from heddle.text.tools import TOOL_CALL_BEGIN, TOOL_CALL_END

THINK_BEGIN = "<think>"
THINK_END = "</think>"

_CALL_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model wrote between think tags."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins; `index` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Part = Content | Reasoning | ToolCallStart | ToolCallArguments


class StreamParser:
    """Takes pieces of text, cut anywhere, and gives back parts as soon as they are certain.

    Think tags count at the beginning of the answer only, tool calls anywhere after. White space
    around tags belongs to the tags. What looks like a call and is none is given back as content.
    Arguments stream as they come, so when the answer breaks off inside them, they are not complete
    JSON.
    """

    def __init__(self, *, tools: bool, thinking: bool, inside_reasoning: bool = False):
        """Look for tool calls, think tags; `inside_reasoning`: the prompt ends with an open one."""
        self._tools = tools
        self._buffer: str = ""
        self._parts: list[Part] = []
        self._num_calls = 0
        self._call_begin = ""
        self._trims = inside_reasoning
        self._json = _JsonEnd()
        # What reads the buffer now. True: it is done and `_state` is the next; False: it needs more
        # text.
        self._state: Callable[[], bool] = self._read_content
        if inside_reasoning:
            self._state = self._read_reasoning
        elif thinking:
            self._state = self._read_beginning

    def push(self, text: str) -> list[Part]:
        """Return the parts that `text` makes certain."""
        self._buffer += text
        while self._state():
            pass
        return self._take_parts()

    def finish(self) -> list[Part]:
        """Return what was held back, at the end of the answer."""
        rest, self._buffer = self._buffer, ""
        if self._state == self._read_reasoning:
            self._add_text(Reasoning, rest)
        elif self._state == self._read_call_head:
            self._add_call(rest, end="")
        elif self._state != self._read_call_tail:
            self._add_text(Content, rest)
        return self._take_parts()

    def _take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _add_text(self, kind: type[Content] | type[Reasoning], text: str) -> None:
        if self._trims:
            text = text.lstrip()
        if text:
            self._trims = False
            self._parts.append(kind(text))

    def _read_beginning(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(THINK_BEGIN):
            self._buffer = text.removeprefix(THINK_BEGIN)
            self._trims = True
            self._state = self._read_reasoning
            return True
        if THINK_BEGIN.startswith(text):
            return False
        self._state = self._read_content
        return True

    def _read_reasoning(self) -> bool:
        if not self._read_until(THINK_END, Reasoning):
            return False
        self._trims = True
        self._state = self._read_content
        return True

    def _read_content(self) -> bool:
        if not self._tools:
            self._add_text(Content, self._buffer)
            self._buffer = ""
            return False
        if not self._read_until(TOOL_CALL_BEGIN, Content):
            return False
        self._state = self._read_call_head
        return True

    def _read_until(self, tag: str, kind: type[Content] | type[Reasoning]) -> bool:
        """Pass text on up to `tag`; hold back white space, and what may be the tag's beginning."""
        before, found, after = self._buffer.partition(tag)
        certain = before if found else before[: len(before) - num_held(before, [tag])]
        certain = certain.rstrip()
        self._add_text(kind, certain)
        if found:
            self._call_begin = before[len(certain) :] + tag
            self._buffer = after
            return True
        self._buffer = before[len(certain) :]
        return False

    def _read_call_head(self) -> bool:
        start = self._buffer.lstrip()
        if start and not start.startswith("{"):
            self._give_back("")
            return True
        head = _CALL_HEAD.match(self._buffer)
        name = load_or_none(head[1]) if head else None
        if head and isinstance(name, str):
            self._start_call(name)
            self._buffer = self._buffer[head.end() :]
            self._json = _JsonEnd()
            self._state = self._read_call_arguments
            return True
        body, found, after = self._buffer.partition(TOOL_CALL_END)
        if not found:
            return False
        self._buffer = after
        self._add_call(body, end=TOOL_CALL_END)
        return True

    def _read_call_arguments(self) -> bool:
        end = self._json.find(self._buffer)
        text = self._buffer if end is None else self._buffer[:end]
        if text:
            self._parts.append(ToolCallArguments(self._num_calls - 1, text))
        self._buffer = self._buffer[len(text) :]
        if end is None:
            return False
        self._state = self._read_call_tail
        return True

    def _read_call_tail(self) -> bool:
        """Skip what closes a call; small models write a brace too many, or no end tag."""
        rest = self._buffer.lstrip(" \t\r\n}")
        if TOOL_CALL_END.startswith(rest) and rest != TOOL_CALL_END:
            return False
        self._buffer = rest.removeprefix(TOOL_CALL_END)
        self._trims = True
        self._state = self._read_content
        return True

    def _start_call(self, name: str) -> None:
        call_id = "call_" + "".join(secrets.choice(string.ascii_letters) for _ in range(24))
        self._parts.append(ToolCallStart(self._num_calls, call_id, name))
        self._num_calls += 1

    def _add_call(self, body: str, *, end: str) -> None:
        """Add a call in an unusual order, or give back the text of a malformed one."""
        call = _read_call(load_or_none(body))
        if call is None:
            self._give_back(body + end)
            return
        name, arguments = call
        self._start_call(name)
        self._parts.append(ToolCallArguments(self._num_calls - 1, arguments))
        self._trims = True
        self._state = self._read_content

    def _give_back(self, text: str) -> None:
        self._add_text(Content, self._call_begin + text)
        self._state = self._read_content


class _JsonEnd:
    """Finds where a JSON object or array ends that arrives in pieces."""

    def __init__(self):
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """Return where the value ends, or a `<` outside strings stands, else None."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
            elif character == "<":
                return position
        return None


def _read_call(call: Any) -> tuple[str, str] | None:
    """Return a call's name and arguments from variants of the convention that models write."""
    if not is_object(call):
        return None
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = load_or_none(arguments)
    if not isinstance(name, str) or not is_object(arguments):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
