"""Engine requests under way for one client: their events brought into the server's loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from heddle.engine.engine import Engine
from heddle.engine.request import Event, Finished, Request
from heddle.errors import EngineError
from heddle.server.limits import Limits
from heddle.server.record import RequestRecord


class Arrival(NamedTuple):
    """An event of the request at `index`, and when the engine gave it (`time.perf_counter`)."""

    index: int
    event: Event
    at: float


class Submission:
    """Submits requests on entering and cancels, on leaving, those that have not finished.

    In between their tokens count towards the caller's limit; to the engine the caller is a tenant.
    Waiting events are held until the client takes them, at most as many as its requests may have
    tokens; the client takes all that wait at once, so a slow one gets fewer and longer pieces.
    """

    def __init__(
        self, engine: Engine, requests: Sequence[Request], *, record: RequestRecord, limits: Limits
    ):
        self._engine = engine
        self._requests = [replace(request, tenant=record.caller) for request in requests]
        self._num_tokens = sum(len(each.prompt) + each.max_new_tokens for each in requests)
        self._record, self._limits = record, limits
        self._unfinished: set[int] = set()
        self._cancelled: set[int] = set()
        self._arrivals: list[Arrival] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._left = False

    async def __aenter__(self) -> "Submission":
        most = self._record.bounds.max_open_tokens
        self._limits.take_tokens(self._record.caller, self._num_tokens, most=most)
        try:
            await asyncio.to_thread(self._submit)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        self._limits.give_back_tokens(self._record.caller, self._num_tokens)

    def cancel(self, index: int) -> None:
        """End one request early; its `Finished` still comes."""
        self._cancelled.add(index)
        self._engine.cancel(self._requests[index].request_id)

    async def arrivals(self) -> AsyncIterator[list[Arrival]]:
        """Yield what has come since the last time; end after every request's `Finished`.

        Raises the error that a request ended with, and EngineError when the engine is closed
        meanwhile.
        """
        while self._unfinished:
            await self._news.wait()
            self._news.clear()
            arrivals, self._arrivals = self._arrivals, []
            for index, event, _ in arrivals:
                if isinstance(event, Finished):
                    self._unfinished.discard(index)
                    if event.error is not None:
                        raise event.error
                    if event.reason == "cancelled" and index not in self._cancelled:
                        raise EngineError("the server is stopping")
            yield arrivals

    def _submit(self) -> None:
        """Run off the loop, as compiling a grammar takes a while."""
        for index, request in enumerate(self._requests):
            if self._left:
                break
            self._unfinished.add(index)
            self._engine.submit(request, partial(self._on_event, index))
        if self._left:  # the client went while this thread was at it
            self._leave()

    def _on_event(self, index: int, event: Event) -> None:
        """Called on the engine's thread."""
        if not self._left:
            self._loop.call_soon_threadsafe(
                self._receive, Arrival(index, event, time.perf_counter())
            )

    def _receive(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._news.set()

    def _leave(self) -> None:
        self._left = True
        for index in list(self._unfinished):
            self.cancel(index)
