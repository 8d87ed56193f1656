"""Run measurements in several engines, interleaved round by round.

`heddle bench decode|prefill|ttft` calls `compare`. Each engine lives in a process of its own
(`worker.py`), which waits for its pipe, asleep, while another one is measured.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from heddle.bench.measure import Comparison, Contender, Measurement, Round, Timing, prompt_ids
from heddle.bench.worker import WorkerSettings, settings_argument
from heddle.errors import EngineError

BASE = "base"  # our own engine on the dense model under a delta
SETTLE_S = (
    0.1  # thread pools spin for some milliseconds after their last work; let them fall asleep
)


class Worker:
    """The parent's handle on a child process with one engine; `started` makes it."""

    def __init__(self, name: str, process: subprocess.Popen[str]):
        self.name = name
        self._process = process
        self.contender = Contender(**self._read())._replace(name=name)

    def generate(self, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> Timing:
        """Continue `prompts` greedily; raises EngineError when the child has died."""
        assert self._process.stdin is not None
        command = {"prompts": prompts, "num_new_tokens": num_new_tokens}
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says what became of it
        return Timing(**self._read())

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise EngineError(f"the worker for {self.name} ended with status {status}, see above")
        return json.loads(line)


@contextmanager
def started(name: str, settings: WorkerSettings) -> Iterator[Worker]:
    """Start the worker of the engine `name`; it ends with the block."""
    engine = "heddle" if name == BASE else name
    module = f"heddle.bench.worker_{engine.replace('.', '_')}"
    command = [sys.executable, "-m", module, settings_argument(settings)]
    environment = {**os.environ, "TQDM_DISABLE": "1"}  # no progress bars of a peer between ours
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Worker(name, process)
        finally:
            process.kill()


def compare(
    measurements: Sequence[Measurement],
    contenders: Mapping[str, WorkerSettings],
    *,
    num_rounds: int,
    on_round: Callable[[list[str]], None],
) -> list[Comparison]:
    """Measure the named engines side by side: a warm-up, then rounds in alternating order.

    `on_round` is told the values of each round, as text.
    """
    with ExitStack() as stack:
        workers = [
            stack.enter_context(started(name, settings)) for name, settings in contenders.items()
        ]
        vocab_size = min(worker.contender.vocab_size for worker in workers)
        rounds: list[list[Round]] = [[] for _ in measurements]
        for index in range(num_rounds + 1):
            for measurement, found in zip(measurements, rounds, strict=True):
                prompts = [
                    prompt_ids(
                        vocab_size,
                        measurement.num_prompt_tokens,
                        seed=f"{measurement.name} {index} {stream}",
                    )
                    for stream in range(measurement.num_streams)
                ]
                result = _run_round(measurement, workers, prompts, backwards=index % 2 == 1)
                if index > 0:
                    found.append(result)
                    on_round(
                        [f"{measurement.value(timing):.1f} {measurement.unit}" for timing in result]
                    )
        return [
            Comparison(measurement, tuple(worker.contender for worker in workers), tuple(found))
            for measurement, found in zip(measurements, rounds, strict=True)
        ]


def _run_round(
    measurement: Measurement,
    workers: Sequence[Worker],
    prompts: Sequence[Sequence[int]],
    *,
    backwards: bool,
) -> Round:
    timings: dict[str, Timing] = {}
    for worker in reversed(workers) if backwards else workers:
        for _ in range(2 if measurement.repeat else 1):
            time.sleep(SETTLE_S)
            timings[worker.name] = worker.generate(prompts, measurement.num_new_tokens)
    return tuple(timings[worker.name] for worker in workers)
