"""Many chats at once over HTTP: throughput, waiting times and errors of a whole server.

`heddle bench load` runs it against the real server process.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

from heddle.bench.measure import percentile

WORDS = ("time", "river", "stone", "light", "paper", "garden", "music", "winter", "story", "number")
PROMPT_WORDS = (20, 200)
ANSWER_TOKENS = (16, 96)


class Chat(NamedTuple):
    """One request of the load."""

    text: str
    num_answer_tokens: int


@dataclass(kw_only=True)
class LoadResult:
    """What one run saw; the lists have an entry for each answer, or each gap between pieces."""

    wall_s: float = 0.0
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Return how many answer tokens a second all chats got together."""
        return self.num_answer_tokens / self.wall_s

    def note(self, chunk: dict) -> None:
        """Take token counts, or an error, from a chunk of a stream."""
        usage = chunk.get("usage") or {}
        self.num_prompt_tokens += usage.get("prompt_tokens", 0)
        self.num_answer_tokens += usage.get("completion_tokens", 0)
        if "error" in chunk:
            self.errors.append(str(chunk["error"].get("message")))

    def as_json(self) -> dict[str, float | int | list[str] | None]:
        """Return the figures that are reported."""
        return {
            "first_token_p50_ms": _percentile_ms(self.first_token_s, 50),
            "first_token_p95_ms": _percentile_ms(self.first_token_s, 95),
            "gap_p50_ms": _percentile_ms(self.gap_s, 50),
            "gap_p95_ms": _percentile_ms(self.gap_s, 95),
            "prompt_tokens": self.num_prompt_tokens,
            "answer_tokens": self.num_answer_tokens,
            "answers": len(self.first_token_s),
            "errors": len(self.errors),
            "error_messages": sorted(set(self.errors)),
            "wall_s": round(self.wall_s, 3),
        }


def _percentile_ms(values_s: list[float], percent: int) -> float | None:
    return round(percentile(values_s, percent) * 1e3, 2) if values_s else None


def draw_chats(num_chats: int, *, seed: int) -> list[Chat]:
    """Draw the requests: prompts of 20 to 200 words, answers of 16 to 96 tokens."""
    draw = random.Random(seed)
    chats = []
    for index in range(num_chats):
        words = draw.choices(WORDS, k=draw.randint(*PROMPT_WORDS))
        chats.append(
            Chat(f"Text {index}. Continue: {' '.join(words)}", draw.randint(*ANSWER_TOKENS))
        )
    return chats


async def run_load(
    base_url: str,
    chats: Sequence[Chat],
    *,
    num_at_once: int,
    time_limit_s: float,
    on_answer: Callable[[], None],
) -> LoadResult:
    """Send the chats, `num_at_once` at any time; unfinished ones at the time limit are errors."""
    result, waiting = LoadResult(), list(reversed(chats))
    limits = httpx.Limits(max_connections=num_at_once)
    async with httpx.AsyncClient(
        base_url=base_url, timeout=None, limits=limits, trust_env=False
    ) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]

        async def one_user() -> None:
            while waiting:
                await _chat(client, model, waiting.pop(), result)
                on_answer()

        started = time.perf_counter()
        users = [asyncio.create_task(one_user()) for _ in range(num_at_once)]
        _, late = await asyncio.wait(users, timeout=time_limit_s)
        for user in late:
            user.cancel()
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        result.wall_s = time.perf_counter() - started
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    result.errors += [f"not finished within {time_limit_s:g} s"] * (len(late) + len(waiting))
    return result


async def _chat(client: httpx.AsyncClient, model: str, chat: Chat, result: LoadResult) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": chat.text}],
        "max_tokens": chat.num_answer_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    last = time.perf_counter()
    waits = result.first_token_s
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                result.errors.append(f"status {response.status_code}: {response.text[:200]}")
                return
            async for line in response.aiter_lines():
                chunk = (
                    json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
                )
                if any(choice["delta"].get("content") for choice in chunk.get("choices", ())):
                    now = time.perf_counter()
                    waits.append(now - last)
                    waits, last = result.gap_s, now
                result.note(chunk)
    except httpx.TransportError as error:
        result.errors.append(f"{type(error).__name__}: {error}")
