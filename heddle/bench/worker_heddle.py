"""The worker around our own engine: `python -m heddle.bench.worker_heddle`."""

import queue
import time
from collections.abc import Callable, Sequence
from functools import partial

from heddle import __version__
from heddle.bench.measure import Contender
from heddle.bench.worker import Continuation, serve, settings_from_parent
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Event, Finished, Request, Sampling, TokenEvent
from heddle.errors import EngineError


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], num_new_tokens: int
) -> list[Continuation]:
    """Continue prompts greedily; a token's clock is when its event leaves the engine."""
    events: queue.SimpleQueue[tuple[int, float, Event]] = queue.SimpleQueue()

    def listener(stream: int) -> Callable[[Event], None]:
        return lambda event: events.put((stream, time.perf_counter(), event))

    for stream, prompt in enumerate(prompts):
        request = Request(
            request_id=f"bench-{stream}",
            prompt=tuple(prompt),
            max_new_tokens=num_new_tokens,
            sampling=Sampling(temperature=0.0),
        )
        engine.submit(request, listener(stream))
    found: list[Continuation] = [([], []) for _ in prompts]
    num_open = len(prompts)
    while num_open:
        stream, clock, event = events.get()
        if isinstance(event, TokenEvent):
            found[stream][0].append(clock)
            found[stream][1].append(event.token_id)
        elif isinstance(event, Finished):
            num_open -= 1
            if event.reason != "length":
                raise event.error or EngineError(f"generation ended early: {event.reason}")
    return found


def main() -> None:
    """Load the model that the parent names and serve it."""
    settings = settings_from_parent()
    config = EngineConfig(
        context_length=settings.context_length,
        max_running=max(16, settings.streams),
        dtype=settings.dtype,
        threads=settings.threads,
        draft_tokens=0,  # prompts of random tokens end in repetitions, which guessing would flatter
    )
    engine = Engine.load(settings.model_path, config)
    checkpoint = engine.checkpoint
    contender = Contender("heddle", __version__, settings.dtype, checkpoint.config.vocab_size)
    serve(contender, partial(generate, engine))
    engine.close()


if __name__ == "__main__":
    main()
