"""The child side of a comparison: a process that holds one engine and runs what the parent sends.

Each `worker_*.py` builds its engine from the parent's `WorkerSettings` and calls `serve`. One JSON
object a line goes each way: `{"prompt", "num_new_tokens"}` in, the fields of `Timing` out. The
first line out says who is there.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from heddle.bench.measure import Contender, Timing
from heddle.engine.config import DType


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What an engine of a comparison is given; `dtype` counts only where it can choose."""

    path: str
    threads: int
    context_length: int
    dtype: DType

    @property
    def model_path(self) -> Path:
        """Return where the model is."""
        return Path(self.path)


Continuation = tuple[list[float], list[int]]
Continue = Callable[[Sequence[int], int], Continuation]


class PrefixGreedy:
    """Greedy decoding for a peer: it recomputes only what differs from the last prompt.

    `next_token(num_kept, ids)` forgets all but the first `num_kept` tokens, appends `ids` and
    returns the likeliest token after them.
    """

    def __init__(self, next_token: Callable[[int, list[int]], int]):
        self._next_token = next_token
        self._kept: list[int] = []

    def generate(self, prompt: Sequence[int], num_new_tokens: int) -> Continuation:
        """Continue `prompt`; see `serve`."""
        length = 0
        while (
            length < min(len(self._kept), len(prompt) - 1) and self._kept[length] == prompt[length]
        ):
            length += 1
        pending, clocks, tokens = list(prompt[length:]), [], []
        for _ in range(num_new_tokens):
            token = self._next_token(length, pending)
            clocks.append(time.perf_counter())
            length += len(pending)
            pending = [token]
            tokens.append(token)
        self._kept = [*prompt, *tokens[:-1]]
        return clocks, tokens


def settings_from_parent() -> WorkerSettings:
    """Read the settings that the parent passes as the one argument."""
    return WorkerSettings(**json.loads(sys.argv[1]))


def settings_argument(settings: WorkerSettings) -> str:
    """Write the argument that `settings_from_parent` reads."""
    return json.dumps(asdict(settings))


def serve(contender: Contender, generate: Continue) -> None:
    """Answer the parent until it closes the pipe.

    `generate(prompt, num_new_tokens)` continues greedily past every stop token and returns the
    clock (`time.perf_counter`) at each token, and the tokens. It may reuse what it kept of the
    prompt before.
    """
    _answer(contender._asdict())
    idle_since = time.process_time()
    for line in sys.stdin:
        idle_cpu_s = time.process_time() - idle_since
        command = json.loads(line)
        started = time.perf_counter()
        clocks, tokens = generate(command["prompt"], command["num_new_tokens"])
        timing = Timing(clocks[0] - started, clocks[-1] - clocks[0], tokens, idle_cpu_s)
        _answer(timing._asdict())
        idle_since = time.process_time()


def _answer(fields: dict) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
