"""Likelihoods straight from an engine in this process: `client.model.Scorer` without a server.

Used by `eval`. Pairs that begin alike share what the cache holds of their beginning.
"""

import queue
import threading
from collections.abc import Sequence
from itertools import count

from heddle.client.model import Likelihood, Think
from heddle.client.wire import read_compute
from heddle.engine.engine import Engine
from heddle.engine.request import Event, Finished, PromptScored, Request, Sampling, Thinking
from heddle.errors import EngineError, WeightsError
from heddle.server.spent import Spent
from heddle.text.scored import Scored, encode_pair, windows
from heddle.text.tokenizer import Tokenizer


class EngineScorer:
    """One engine's likelihoods; safe to call from several threads, which are batched together."""

    def __init__(self, engine: Engine):
        """Raise WeightsError for a model without a token that a text can begin with."""
        checkpoint = engine.checkpoint
        self._engine = engine
        self._tokenizer = Tokenizer(checkpoint.tokenizer_json)
        starts = [checkpoint.bos_id, *checkpoint.eos_ids]
        start_id = next((token_id for token_id in starts if token_id is not None), None)
        if start_id is None:
            raise WeightsError(f"{checkpoint.name} has no token that begins or ends a text")
        self._start_id = start_id
        self._begin = (start_id,) if checkpoint.add_bos else ()
        self._places = threading.BoundedSemaphore(engine.config.max_running * 2)
        self._numbers = count()

    def score(
        self, pairs: Sequence[tuple[str, str]], *, think: Think | None = None
    ) -> list[Likelihood]:
        """Return how likely each pair's second text is after its first.

        A text after nothing may be longer than the context: it is then read in windows. Raises
        ContextLengthError for other pairs that are too long, and EngineError when the engine fails
        or is closed meanwhile.
        """
        thinking = self._thinking(think)
        parts = [list(self._parts(*pair)) for pair in pairs]
        arrivals: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        sums = [_Sum(self._engine.clusters) for _ in parts]
        num_open = 0
        for index, some in enumerate(parts):
            for part in some:
                self._submit(part, thinking, index, arrivals)
                num_open += 1
        while num_open:
            index, event = arrivals.get()
            if isinstance(event, PromptScored):
                sums[index].add(event)
            elif isinstance(event, Finished):
                num_open -= 1
                _check(event)
                sums[index].finish(event)
        return [each.likelihood() for each in sums]

    def _parts(self, context: str, continuation: str) -> Sequence[Scored]:
        if context.strip():
            return [encode_pair(self._tokenizer, context, continuation, begin=self._begin)]
        ids = self._tokenizer.encode(context + continuation)
        length = self._engine.context_length
        return list(windows(ids, start_id=self._start_id, length=length))

    def _submit(
        self,
        part: Scored,
        thinking: Thinking,
        index: int,
        arrivals: "queue.SimpleQueue[tuple[int, Event]]",
    ) -> None:
        def on_event(event: Event) -> None:
            if isinstance(event, Finished):
                self._places.release()
            arrivals.put((index, event))

        request = Request(
            request_id=f"score-{next(self._numbers)}",
            prompt=part.ids,
            max_new_tokens=0,
            sampling=Sampling(temperature=0),
            num_prompt_logprobs=1,
            prompt_logprobs_from=part.first,
            thinking=thinking,
        )
        self._places.acquire()
        try:
            self._engine.submit(request, on_event)
        except BaseException:
            self._places.release()
            raise

    def _thinking(self, think: Think | None) -> Thinking:
        if think == "auto":
            return Thinking(max_loops=self._engine.max_loops, is_automatic=True)
        return Thinking(max_loops=think or 1)


class _Sum:
    """A pair's likelihood, summed over the windows that it is read in."""

    def __init__(self, clusters: tuple[str, ...]):
        self._logprob = 0.0
        self._num_tokens = 0
        self._is_greedy = True
        self._spent = Spent(clusters)

    def add(self, scored: PromptScored) -> None:
        self._logprob += sum(scored.logprobs)
        self._num_tokens += len(scored.logprobs)
        self._is_greedy &= all(
            logprob >= highest
            for logprob, ((_, highest),) in zip(scored.logprobs, scored.top_logprobs, strict=True)
        )

    def finish(self, finished: Finished) -> None:
        if finished.compute is not None:
            self._spent.add(finished.compute)

    def likelihood(self) -> Likelihood:
        compute = read_compute(self._spent.as_json())
        return Likelihood(self._logprob, self._num_tokens, self._is_greedy, compute)


def _check(finished: Finished) -> None:
    if finished.error is not None:
        raise finished.error
    if finished.reason == "cancelled":
        raise EngineError("the engine was closed before it had scored a text")
