"""The one path from an API to the engine and back: token ids, request, events, text, parts.

Chat and plain completions are two pairs of "body to `Turn`" and "`Update` to JSON" around
`TurnRun`.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from heddle.engine.engine import Engine
from heddle.engine.request import Finished, PromptScored, Request, Sampling, TokenEvent
from heddle.errors import ContextLengthError
from heddle.server.choice import Choice, Piece
from heddle.server.dial import DialSetting
from heddle.server.limits import Limits
from heddle.server.metrics import Metrics
from heddle.server.record import RequestRecord
from heddle.server.spent import Spent
from heddle.server.submission import Arrival, Submission
from heddle.text.stream_parser import StreamParser
from heddle.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A prompt to answer `num_choices` times.

    `max_new_tokens` None is what the context has room for.
    """

    prompt: tuple[int, ...]
    prompt_field: str = "prompt"
    num_choices: int = 1
    max_new_tokens: int | None = None
    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    grammar: str | None = None
    num_prompt_logprobs: int | None = None
    make_parser: Callable[[], StreamParser] | None = None
    dial: DialSetting = DialSetting()


class Update(NamedTuple):
    """News of the choice at `index`, counted over all turns. `finish_reason` ends it."""

    index: int
    piece: Piece
    prompt_scored: PromptScored | None
    finish_reason: str | None


@dataclass(kw_only=True)
class Answer:
    """All updates of one choice together."""

    piece: Piece = field(default_factory=Piece)
    prompt_scored: PromptScored | None = None
    finish_reason: str | None = None


@dataclass(kw_only=True)
class Usage:
    """Tokens, times and arithmetic of a whole run, in OpenAI's fields and ours."""

    spent: Spent
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_new_tokens: int = 0
    num_reasoning_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float | None = None

    def tokens(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object, with `compute` added."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_new_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_new_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.num_reasoning_tokens},
            "compute": self.spent.as_json(),
        }

    def timings(self) -> dict[str, float | None]:
        """Return the `timings` object, an extension of this server."""
        speed = self.num_new_tokens / self.decode_s if self.decode_s else None
        return {
            "queue_ms": _ms(self.queue_s),
            "prefill_ms": _ms(self.prefill_s),
            "decode_ms": _ms(self.decode_s),
            "time_to_first_token_ms": None
            if self.first_token_s is None
            else _ms(self.first_token_s),
            "tokens_per_second": None if speed is None else round(speed, 2),
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


class TurnRun:
    """Some turns under way: an asynchronous context whose end cancels what is not finished."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        turns: Sequence[Turn],
        *,
        record: RequestRecord,
        metrics: Metrics,
        limits: Limits,
    ):
        each = [(turn, number) for turn in turns for number in range(turn.num_choices)]
        self.choices = [
            Choice(
                tokenizer=tokenizer,
                stops=turn.stops,
                parser=turn.make_parser() if turn.make_parser else None,
            )
            for turn, _ in each
        ]
        self.usage = Usage(
            spent=Spent(engine.clusters),
            num_prompt_tokens=sum(len(turn.prompt) for turn in turns),
        )
        self._is_first = [number == 0 for _, number in each]
        self._prompt_field = turns[0].prompt_field
        self._record = record
        self._metrics = metrics
        self._token_at: list[float | None] = [None] * len(each)
        requests = [_request(engine, *pair) for pair in each]
        self._submission = Submission(engine, requests, record=record, limits=limits)

    async def __aenter__(self) -> "TurnRun":
        self._record.num_prompt_tokens = self.usage.num_prompt_tokens
        try:
            await self._submission.__aenter__()
        except ContextLengthError as error:
            error.parameter = self._prompt_field
            raise
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._submission.__aexit__(*exception)
        self._record.num_cached_tokens = self.usage.num_cached_tokens
        self._record.num_new_tokens = sum(choice.num_tokens for choice in self.choices)
        if all(choice.finish_reason for choice in self.choices):
            self._record.flops = self.usage.spent.flops
        self._record.finish_reasons = [
            choice.finish_reason or "cancelled" for choice in self.choices
        ]

    async def updates(self) -> AsyncIterator[Update]:
        """Yield news until every choice has ended; raises what the engine reports."""
        async for arrivals in self._submission.arrivals():
            by_index: dict[int, list[Arrival]] = {}
            for arrival in arrivals:
                by_index.setdefault(arrival.index, []).append(arrival)
            for index, some in by_index.items():
                yield self._read(index, some)

    async def answers(self) -> list[Answer]:
        """Return every choice's answer when all have ended."""
        answers = [Answer() for _ in self.choices]
        async for index, piece, scored, finish_reason in self.updates():
            answers[index].piece.add(piece.parts)
            answers[index].piece.tokens += piece.tokens
            answers[index].piece.stop = piece.stop
            answers[index].prompt_scored = scored or answers[index].prompt_scored
            answers[index].finish_reason = finish_reason
        return answers

    def _read(self, index: int, arrivals: Sequence[Arrival]) -> Update:
        choice, piece, scored = self.choices[index], Piece(), None
        for _, event, at in arrivals:
            match event:
                case TokenEvent() if not choice.is_stopped:
                    self._note_token(index, at)
                    choice.push(event, piece)
                    if choice.is_stopped:
                        self._submission.cancel(index)
                case PromptScored():
                    scored = event
                case Finished():
                    choice.finish(event, piece)
                    self._note_end(index, event)
        return Update(index, piece, scored, choice.finish_reason)

    def _note_token(self, index: int, at: float) -> None:
        last_at, self._token_at[index] = self._token_at[index], at
        if last_at is not None:
            self._metrics.token_gap.observe(at - last_at)
        elif self.usage.first_token_s is None:
            self.usage.first_token_s = at - self._record.started_at
            self._metrics.first_token.observe(self.usage.first_token_s)

    def _note_end(self, index: int, finished: Finished) -> None:
        usage, choice = self.usage, self.choices[index]
        usage.num_new_tokens += finished.num_new_tokens
        if finished.compute is not None:
            usage.spent.add(finished.compute)
        usage.num_reasoning_tokens += choice.num_reasoning_tokens
        if self._is_first[index]:
            usage.num_cached_tokens += finished.num_cached_tokens
        usage.queue_s = max(usage.queue_s, finished.queue_s)
        usage.prefill_s = max(usage.prefill_s, finished.prefill_s)
        usage.decode_s = max(usage.decode_s, finished.decode_s)


def _request(engine: Engine, turn: Turn, number: int) -> Request:
    """Return the engine's request for one answer of a turn; each has a seed of its own."""
    room = max(1, engine.context_length - len(turn.prompt))
    seed = turn.sampling.seed
    return Request(
        request_id=secrets.token_hex(16),
        prompt=turn.prompt,
        max_new_tokens=room if turn.max_new_tokens is None else turn.max_new_tokens,
        sampling=turn.sampling if seed is None else replace(turn.sampling, seed=seed + number),
        stop_ids=turn.stop_ids,
        grammar=turn.grammar,
        num_prompt_logprobs=turn.num_prompt_logprobs,
        thinking=turn.dial.thinking,
        steer=turn.dial.steer,
    )
