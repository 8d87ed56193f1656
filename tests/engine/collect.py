"""Send requests to an engine and wait for what comes back."""

import queue
from itertools import count

from heddle.engine.engine import Engine
from heddle.engine.request import Event, Finished, Request, Sampling, TokenEvent

GREEDY = Sampling(temperature=0)
_ids = count()


class Answer:
    """The events of one request, as they arrive."""

    def __init__(self, engine: Engine, request: Request):
        self.engine, self.request = engine, request
        self.events: list[Event] = []
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        engine.submit(request, self._queue.put)

    def next(self, timeout_s: float = 60) -> Event:
        event = self._queue.get(timeout=timeout_s)
        self.events.append(event)
        return event

    def wait(self) -> "Answer":
        while not (self.events and isinstance(self.events[-1], Finished)):
            self.next()
        return self

    @property
    def finished(self) -> Finished:
        event = self.wait().events[-1]
        assert isinstance(event, Finished)
        return event

    @property
    def tokens(self) -> list[int]:
        return [e.token_id for e in self.wait().events if isinstance(e, TokenEvent)]


def ask(engine: Engine, tokens: list[int], num_tokens: int = 16, **fields) -> Answer:
    """Submit a greedy request, unless `sampling` says otherwise."""
    request = Request(
        **{
            "request_id": f"test-{next(_ids)}",
            "prompt": tuple(tokens),
            "max_new_tokens": num_tokens,
            "sampling": GREEDY,
        }
        | fields
    )
    return Answer(engine, request)
