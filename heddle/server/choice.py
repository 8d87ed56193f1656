"""One answer in the making: tokens in, text in parts out.

Driven by `turn`; pure, so that a test can drive it without an engine.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from heddle.engine.request import Finished, TokenEvent
from heddle.text.detokenizer import Detokenizer
from heddle.text.stops import StopScanner
from heddle.text.stream_parser import (
    Content,
    Part,
    Reasoning,
    StreamParser,
    ToolCallArguments,
    ToolCallStart,
)
from heddle.text.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Piece:
    """What some events added to an answer; `tokens` are those that its text came from.

    `stop` is the token that ended it, which is not part of its text.
    """

    parts: list[Part] = field(default_factory=list)
    tokens: list[TokenEvent] = field(default_factory=list)
    stop: TokenEvent | None = None

    def add(self, parts: Sequence[Part]) -> None:
        """Append parts, joining text to text of the same kind."""
        for part in parts:
            last = self.parts[-1] if self.parts else None
            match last, part:
                case (Content(), Content()) | (Reasoning(), Reasoning()):
                    self.parts[-1] = type(part)(last.text + part.text)
                case ToolCallArguments(), ToolCallArguments() if last.index == part.index:
                    self.parts[-1] = ToolCallArguments(part.index, last.text + part.text)
                case _:
                    self.parts.append(part)


class _Pending(NamedTuple):
    """A token whose text, from character `start`, may turn out to be part of a stop string."""

    event: TokenEvent
    start: int
    end: int


class Choice:
    """Detokenises an answer, ends it before a stop string and takes it apart.

    Without a parser it is all content.
    """

    def __init__(self, *, tokenizer: Tokenizer, stops: Sequence[str], parser: StreamParser | None):
        self.finish_reason: str | None = None
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self._detokenizer = Detokenizer(tokenizer)
        self._scanner = StopScanner(stops)
        self._parser = parser
        self._pending: deque[_Pending] = deque()
        self._num_read = 0
        self._num_sent = 0
        self._has_calls = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has ended the text, so that no token is read any more."""
        return self._scanner.stopped is not None

    def push(self, event: TokenEvent, piece: Piece) -> None:
        """Read a token."""
        text = self._detokenizer.push(event.token_id)
        self.num_tokens += 1
        self._pending.append(_Pending(event, self._num_read, self._num_read + len(text)))
        self._num_read += len(text)
        self._send(self._scanner.push(text), piece)

    def finish(self, finished: Finished, piece: Piece) -> None:
        """Read the end and set `finish_reason`."""
        self._send(self._scanner.push(self._detokenizer.flush()), piece)
        if not self.is_stopped:
            self._send(self._scanner.flush(), piece)
        piece.tokens += [
            pending.event
            for pending in self._pending
            if pending.start < self._num_sent or not self.is_stopped
        ]
        if self._parser is not None:
            self._add(self._parser.finish(), piece)
        piece.stop = finished.stop
        self.num_tokens = finished.num_new_tokens
        if finished.reason == "length" and not self.is_stopped:
            self.finish_reason = "length"
        else:
            self.finish_reason = "tool_calls" if self._has_calls else "stop"

    def _send(self, text: str, piece: Piece) -> None:
        self._num_sent += len(text)
        while self._pending and self._pending[0].end <= self._num_sent:
            piece.tokens.append(self._pending.popleft().event)
        if text:
            parts: list[Part] = [Content(text)] if self._parser is None else self._parser.push(text)
            self._add(parts, piece)
            if any(isinstance(part, Reasoning) for part in parts):
                self.num_reasoning_tokens += 1

    def _add(self, parts: Sequence[Part], piece: Piece) -> None:
        self._has_calls |= any(isinstance(part, ToolCallStart) for part in parts)
        piece.add(parts)
