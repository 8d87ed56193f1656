"""What a fresh server process costs: memory with a full context, and the time until it answers.

`heddle bench memory` and `heddle bench startup` run these against the real `heddle serve`.
"""

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from heddle.bench.environment import describe_environment
from heddle.bench.measure import percentile, prompt_ids
from heddle.bench.report import NO_PEER, Json
from heddle.bench.server_process import heddle_command, running

NUM_ANSWER_TOKENS = 32
ANY_VOCAB = 512  # ids below this are ordinary tokens in every vocabulary
ANSWER_TIMEOUT_S = 600.0


def measure_memory(model_path: Path, *, threads: int, context_length: int) -> Json:
    """Fill one context to its end and return the most memory the server ever held."""
    command = heddle_command(model_path, threads=threads, context_length=context_length)
    with running(command) as server:
        ready_bytes = server.peak_bytes()
        prompt = prompt_ids(ANY_VOCAB, context_length - NUM_ANSWER_TOKENS, seed="memory")
        _complete(server.url, prompt, NUM_ANSWER_TOKENS)
        peak_bytes = server.peak_bytes()
    return {
        "name": "memory",
        "unit": "MB",
        "ours": round(peak_bytes / 1e6, 1),
        **NO_PEER,
        "ours_ready": round(ready_bytes / 1e6, 1),
        "context_tokens": context_length,
        "threads": threads,
        "model": model_path.name,
        "environment": describe_environment(),
    }


def measure_startup(
    model_path: Path, *, threads: int, num_rounds: int, on_round: Callable[[str], None]
) -> Json:
    """Return the seconds from the start of a server's process until it is ready, and answers."""
    ready_s, answer_s = [], []
    for _ in range(num_rounds):
        with running(heddle_command(model_path, threads=threads, context_length=2048)) as server:
            started = time.perf_counter()
            _complete(server.url, prompt_ids(ANY_VOCAB, 16, seed="startup"), 1)
            answer_s.append(server.ready_s + time.perf_counter() - started)
            ready_s.append(server.ready_s)
            on_round(f"ready after {server.ready_s:.2f} s")
    return {
        "name": "startup",
        "unit": "s",
        "ours": round(percentile(ready_s, 50), 3),
        "ours_low": round(min(ready_s), 3),
        "ours_high": round(max(ready_s), 3),
        **NO_PEER,
        "first_answer_s": round(percentile(answer_s, 50), 3),
        "rounds": num_rounds,
        "threads": threads,
        "model": model_path.name,
        "environment": describe_environment(),
    }


def _complete(url: str, prompt: list[int], num_tokens: int) -> None:
    with httpx.Client(base_url=url, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        body = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True}
        client.post("/v1/completions", json=body).raise_for_status()
