"""The worker around our own engine: `python -m heddle.bench.worker_heddle`."""

import queue
import time
from collections.abc import Sequence

from heddle import __version__
from heddle.bench.measure import Contender
from heddle.bench.worker import Continuation, serve, settings_from_parent
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Event, Finished, Request, Sampling, TokenEvent
from heddle.errors import EngineError


def generate(engine: Engine, prompt: Sequence[int], num_new_tokens: int) -> Continuation:
    """Continue `prompt` greedily; a token's clock is when its event leaves the engine."""
    events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
    request = Request(
        request_id="bench",
        prompt=tuple(prompt),
        max_new_tokens=num_new_tokens,
        sampling=Sampling(temperature=0.0),
    )
    engine.submit(request, lambda event: events.put((time.perf_counter(), event)))
    clocks, tokens = [], []
    while True:
        clock, event = events.get()
        if isinstance(event, TokenEvent):
            clocks.append(clock)
            tokens.append(event.token_id)
        elif isinstance(event, Finished):
            if event.reason != "length":
                raise event.error or EngineError(f"generation ended early: {event.reason}")
            return clocks, tokens


def main() -> None:
    """Load the model that the parent names and serve it."""
    settings = settings_from_parent()
    config = EngineConfig(
        context_length=settings.context_length, dtype=settings.dtype, threads=settings.threads
    )
    engine = Engine.load(settings.model_path, config)
    checkpoint = engine.checkpoint
    contender = Contender("heddle", __version__, settings.dtype, checkpoint.config.vocab_size)
    serve(contender, lambda prompt, num_new_tokens: generate(engine, prompt, num_new_tokens))
    engine.close()


if __name__ == "__main__":
    main()
