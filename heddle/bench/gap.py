"""How long a running answer waits for its next token while a long prompt is read.

`heddle bench gap` runs it against the real server process. Guessing is off there: several tokens at
once would flatter the figure.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from heddle.bench.environment import describe_environment
from heddle.bench.footprint import ANY_VOCAB
from heddle.bench.measure import percentile, prompt_ids
from heddle.bench.report import NO_PEER, Json
from heddle.bench.server_process import heddle_command, running
from heddle.errors import EngineError

NUM_ALONE = 64  # tokens of the answer before each prompt
MAX_ANSWER_TOKENS = 3000
TEXT = "Once upon a time there was a weaver who lived by the river. Every morning she"


class Stream:
    """An answer under way, and when its pieces came."""

    def __init__(self):
        self.arrived_at: list[float] = []
        self._news = asyncio.Event()
        self._has_ended = False

    async def read(self, client: httpx.AsyncClient, model: str) -> None:
        """Ask for a long answer and note its pieces."""
        body = {"model": model, "prompt": TEXT, "max_tokens": MAX_ANSWER_TOKENS}
        body |= {"temperature": 0, "ignore_eos": True, "stream": True}
        try:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                        self.arrived_at.append(time.perf_counter())
                        self._news.set()
        finally:
            self._has_ended = True
            self._news.set()

    async def wait(self, num_pieces: int) -> None:
        """Return when so many more pieces have come; raises EngineError if they will not."""
        until = len(self.arrived_at) + num_pieces
        while len(self.arrived_at) < until:
            if self._has_ended:
                raise EngineError("the running answer ended early: take fewer rounds")
            self._news.clear()
            await self._news.wait()

    def gaps(self, start: float, end: float) -> list[float]:
        """Return the gaps that ended between two times."""
        return [
            later - earlier
            for earlier, later in zip(self.arrived_at, self.arrived_at[1:], strict=False)
            if start < later <= end
        ]


def measure_gap(
    model_path: Path,
    *,
    threads: int,
    num_prompt_tokens: int,
    num_rounds: int,
    on_round: Callable[[str], None],
) -> Json:
    """Return percentiles of the gaps of one answer while prompts are read, and when none is."""
    context_length = max(num_prompt_tokens, MAX_ANSWER_TOKENS) + 64
    command = heddle_command(model_path, threads=threads, context_length=context_length)
    command = command._replace(arguments=[*command.arguments, "--no-speculation"])
    prompts = [
        prompt_ids(ANY_VOCAB, num_prompt_tokens, seed=f"gap {number}")
        for number in range(num_rounds)
    ]
    with running(command) as server:
        alone_s, shared_s, prefill_s = asyncio.run(_rounds(server.url, prompts, on_round))
    return {
        "name": "gap",
        "unit": "ms",
        "ours": _ms(percentile(shared_s, 95)),
        **NO_PEER,
        "gap_p50_ms": _ms(percentile(shared_s, 50)),
        "gap_max_ms": _ms(max(shared_s)),
        "alone_p50_ms": _ms(percentile(alone_s, 50)),
        "alone_p95_ms": _ms(percentile(alone_s, 95)),
        "gaps": len(shared_s),
        "prefill_s": round(percentile(prefill_s, 50), 2),
        "prompt_tokens": num_prompt_tokens,
        "rounds": num_rounds,
        "threads": threads,
        "model": model_path.name,
        "environment": describe_environment(),
    }


async def _rounds(
    url: str, prompts: list[list[int]], on_round: Callable[[str], None]
) -> tuple[list[float], list[float], list[float]]:
    """Return gaps alone, gaps while a prompt was read, and how long each of those took."""
    alone_s, shared_s, prefill_s = [], [], []
    async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        stream = Stream()
        reading = asyncio.create_task(stream.read(client, model))
        await stream.wait(1)
        for prompt in prompts:
            started = time.perf_counter()
            await stream.wait(NUM_ALONE)
            sent = time.perf_counter()
            body = {"model": model, "prompt": prompt, "max_tokens": 1, "ignore_eos": True}
            (await client.post("/v1/completions", json=body)).raise_for_status()
            answered = time.perf_counter()
            await stream.wait(1)
            alone_s += stream.gaps(started, sent)
            shared_s += stream.gaps(sent, answered)
            prefill_s.append(answered - sent)
            on_round(f"{max(stream.gaps(sent, answered)) * 1e3:.0f} ms at most")
        reading.cancel()
        await asyncio.wait([reading])
    return alone_s, shared_s, prefill_s


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)
