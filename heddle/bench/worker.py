"""The child side of a comparison: a process that holds one engine and runs what the parent sends.

Each `worker_*.py` builds its engine from the parent's `WorkerSettings` and calls `serve`. One JSON
object a line goes each way: `{"prompts", "num_new_tokens"}` in, the fields of `Timing` out. The
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
from heddle.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What an engine of a comparison is given; `dtype` counts only where it can choose.

    `context_length` is that of all streams together.
    """

    path: str
    threads: int
    context_length: int
    dtype: DType
    streams: int = 1

    @property
    def model_path(self) -> Path:
        """Return where the model is."""
        return Path(self.path)


Continuation = tuple[list[float], list[int]]
Continue = Callable[[Sequence[Sequence[int]], int], list[Continuation]]


class PrefixGreedy:
    """Greedy decoding for a peer: it recomputes only what differs from the last prompt.

    `next_token(num_kept, ids)` forgets all but the first `num_kept` tokens, appends `ids` and
    returns the likeliest token after them.
    """

    def __init__(self, next_token: Callable[[int, list[int]], int]):
        self._next_token = next_token
        self._kept: list[int] = []

    def generate(self, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> list[Continuation]:
        """Continue the one prompt; see `serve`."""
        [prompt] = prompts
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
        return [(clocks, tokens)]


def settings_from_parent() -> WorkerSettings:
    """Read the settings that the parent passes as the one argument."""
    return WorkerSettings(**json.loads(sys.argv[1]))


def settings_argument(settings: WorkerSettings) -> str:
    """Write the argument that `settings_from_parent` reads."""
    return json.dumps(asdict(settings))


def serve(contender: Contender, generate: Continue) -> None:
    """Answer the parent until it closes the pipe.

    `generate(prompts, num_new_tokens)` continues them side by side, greedily and past every stop
    token, and returns for each the clock (`time.perf_counter`) at each token, and the tokens. It
    may reuse what it kept of a prompt before.
    """
    _answer(contender._asdict())
    idle_since = time.process_time()
    for line in sys.stdin:
        idle_cpu_s = time.process_time() - idle_since
        command = json.loads(line)
        started = time.perf_counter()
        found = generate(command["prompts"], command["num_new_tokens"])
        _answer(timed(found, started=started, idle_cpu_s=idle_cpu_s)._asdict())
        idle_since = time.process_time()


def timed(found: list[Continuation], *, started: float, idle_cpu_s: float) -> Timing:
    """Return what continuations took, from when all have begun until the first is complete.

    Raises EngineError if they never all ran at once.
    """
    first = max(clocks[0] for clocks, _ in found)
    end = min(clocks[-1] for clocks, _ in found)
    if end < first:
        raise EngineError("the streams did not run side by side: take fewer, or longer answers")
    return Timing(
        first_s=first - started,
        rest_s=end - first,
        num_rest=sum(first < clock <= end for clocks, _ in found for clock in clocks),
        tokens=[token for _, tokens in found for token in tokens],
        idle_cpu_s=idle_cpu_s,
    )


def _answer(fields: dict) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
