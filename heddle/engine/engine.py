"""The engine: requests in from any thread, events out from its own.

`server/turn.py` and the benches submit; one thread owns the model, the cache and every sequence, so
that none of them needs a lock. Commands reach it through a queue.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch

from heddle.engine.cache import PageCache
from heddle.engine.config import EngineConfig
from heddle.engine.grammar import GrammarCompiler
from heddle.engine.load import chosen_kernels, load_model
from heddle.engine.native import uses_kernels
from heddle.engine.pace import Pace
from heddle.engine.pages import page_tokens
from heddle.engine.progress import advance
from heddle.engine.request import Event, Finished, Request
from heddle.engine.runner import Rows, Runner
from heddle.engine.sampler import Sampler
from heddle.engine.scheduler import Scheduler
from heddle.engine.sequence import Sequence, Work
from heddle.engine.speculation import PromptLookup, Speculation
from heddle.engine.spending import Spending
from heddle.engine.warm import WarmPages, fingerprint
from heddle.errors import (
    BusyError,
    ContextLengthError,
    EngineError,
    HeddleError,
    RequestError,
)
from heddle.model.config import CLUSTERS
from heddle.weights.checkpoint import Checkpoint, open_checkpoint

log = logging.getLogger(__name__)

DEFAULT_CONTEXT_LENGTH = 8192


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A snapshot: what is held now, and what was done since the start."""

    num_running: int
    num_waiting: int
    num_pages: int
    num_used_pages: int
    num_remembered_pages: int
    num_steps: int
    num_preempted: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_new_tokens: int
    num_guessed_tokens: int
    num_true_guesses: int
    num_loops: int
    flops: float
    uptime_s: float


class Engine:
    """Runs one model for many requests at once."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig):
        self.config = config
        context_length = config.context_length or min(
            checkpoint.config.context_length, DEFAULT_CONTEXT_LENGTH
        )
        torch.set_num_threads(config.threads or torch.get_num_threads())
        cache_tokens = config.cache_tokens or max(context_length, DEFAULT_CONTEXT_LENGTH)
        size = page_tokens(checkpoint.config, config)
        num_pages = -(-cache_tokens // size)
        self.context_length = min(context_length, num_pages * size)
        self._cache = PageCache(num_pages=num_pages, page_tokens=size)
        self._pace = Pace(checkpoint.config, config)
        self._grammars = GrammarCompiler(
            checkpoint.tokenizer_json,
            vocab_size=checkpoint.config.vocab_size,
            eos_ids=checkpoint.eos_ids,
        )
        kernels = chosen_kernels(config)
        model = load_model(checkpoint, dtype=config.dtype, kernels=kernels, page_tokens=size)
        self.kernels = kernels.instruction_set if kernels and uses_kernels(model) else None
        self._runner = Runner(model, config, num_pages=num_pages)
        self.checkpoint = replace(checkpoint, tensors={})  # lets go of the mapped file
        copy_page = self._runner.pages.copy if self._is_dense else None
        self._scheduler = Scheduler(config, self._cache, self._pace, copy_page=copy_page)
        self._warm = self._warm_pages()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._live: dict[str, Sequence] = {}
        self._admission = threading.Lock()
        self._num_open = 0
        self._arrivals = count()
        self._totals: Counter[str] = Counter()
        self._flops = 0.0
        self._mean_request_s = 1.0
        self._started_at = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="heddle-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, path: Path, config: EngineConfig | None = None) -> "Engine":
        """Open a checkpoint and start an engine on it."""
        return cls(open_checkpoint(path), config or EngineConfig())

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> None:
        """Queue a request; its events arrive on the engine's thread, a `Finished` last.

        Raises:
            RequestError: the request is not one that this model can serve; `ContextLengthError`
                when too long.
            BusyError: the queue is full.
        """
        self._validate(request)
        constraint = None
        if request.grammar is not None:
            constraint = self._grammars.constraint(request.grammar)
        sampler = Sampler(request.sampling, prompt=request.prompt)
        with self._admission:
            limit = self.config.max_running + self.config.max_waiting
            if self._num_open >= limit:
                raise BusyError(
                    f"the engine already holds {limit} requests",
                    retry_after_s=max(1.0, self._mean_request_s),
                )
            self._num_open += 1
            arrival = next(self._arrivals)
        sequence = Sequence(
            request=request,
            on_event=on_event,
            sampler=sampler,
            constraint=constraint,
            spending=Spending(self.checkpoint.config),
            speculation=Speculation(PromptLookup()) if self._may_guess else None,
            arrival=arrival,
        )
        self._commands.put(lambda: self._begin(sequence))

    def cancel(self, request_id: str) -> None:
        """End a request early; unknown and finished ones are left alone."""
        self._commands.put(lambda: self._cancel(request_id))

    def check_grammar(self, grammar: str) -> None:
        """Raise `RequestError` for a grammar that cannot be compiled."""
        self._grammars.check(grammar)

    def stats(self) -> EngineStats:
        """Return a snapshot; cheap, from any thread."""
        num_running = len(self._scheduler.running)
        return EngineStats(
            num_running=num_running,
            num_waiting=max(0, self._num_open - num_running),
            num_pages=self._cache.num_pages,
            num_used_pages=self._cache.num_used,
            num_remembered_pages=self._cache.num_remembered,
            num_steps=self._totals["steps"],
            num_preempted=self._scheduler.num_preempted,
            num_prompt_tokens=self._totals["prompt"],
            num_cached_tokens=self._totals["cached"],
            num_new_tokens=self._totals["new"],
            num_guessed_tokens=self._totals["guessed"],
            num_true_guesses=self._totals["true guesses"],
            num_loops=self._totals["loops"],
            flops=self._flops,
            uptime_s=time.monotonic() - self._started_at,
        )

    @property
    def max_loops(self) -> int:
        """How deep a request may ask the model to think; 1 if it has no thinking block."""
        think = self.checkpoint.config.think
        return think.max_loops if think else 1

    @property
    def clusters(self) -> tuple[str, ...]:
        """What a request may steer between; empty if the model has no routing fabric."""
        return CLUSTERS if self.checkpoint.config.fabric else ()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive() and not self._closing

    def drain(self, timeout_s: float) -> bool:
        """Wait until no request is left; False if some are when the time is over."""
        deadline = time.monotonic() + timeout_s
        while self._num_open and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._num_open == 0

    def close(self) -> None:
        """Cancel what runs and end the thread; closing twice does nothing."""
        self._closing = True
        self._commands.put(lambda: None)
        self._thread.join()

    @property
    def _is_dense(self) -> bool:
        """Whether a page holds nothing but its tokens, each by itself: no mean, slots or loops."""
        model = self.checkpoint.config
        return model.fabric is None and model.think is None and model.memory is None

    @property
    def _may_guess(self) -> bool:
        """Adaptive networks do not: what they keep of a wrong token would have to be taken back."""
        return self._is_dense and self.config.draft_tokens > 0

    def _validate(self, request: Request) -> None:
        if self._closing:
            raise EngineError("the engine is closed")
        vocab_size = self.checkpoint.config.vocab_size
        if not request.prompt:
            raise RequestError("the prompt is empty", parameter="prompt")
        if min(request.prompt) < 0 or max(request.prompt) >= vocab_size:
            raise RequestError(
                f"token ids must lie between 0 and {vocab_size - 1}", parameter="prompt"
            )
        if any(not 0 <= token < vocab_size for token in request.sampling.logit_bias):
            raise RequestError(
                f"logit_bias names a token outside 0 to {vocab_size - 1}", parameter="logit_bias"
            )
        self._validate_dials(request)
        only_reads = request.embed or request.num_prompt_logprobs is not None
        if request.max_new_tokens < (0 if only_reads else 1):
            raise RequestError("max_tokens must be at least 1", parameter="max_tokens")
        if not 1 <= request.prompt_logprobs_from <= len(request.prompt):
            raise RequestError(
                f"prompt_logprobs_from must lie between 1 and {len(request.prompt)}, "
                f"not {request.prompt_logprobs_from}",
                parameter="prompt_logprobs_from",
            )
        length = len(request.prompt) + request.max_new_tokens
        if length > self.context_length:
            raise ContextLengthError(
                f"the prompt has {len(request.prompt)} tokens and the answer may have "
                f"{request.max_new_tokens}: {length} together, but the context holds "
                f"{self.context_length}",
                parameter="prompt",
                code="context_length_exceeded",
            )

    def _validate_dials(self, request: Request) -> None:
        loops = request.thinking.max_loops
        if loops < 1:
            raise RequestError(f"loops must be at least 1, not {loops}", parameter="think")
        if loops > self.max_loops:
            name = self.checkpoint.name
            if self.max_loops == 1:
                raise RequestError(f"{name} has no thinking block to loop", parameter="think")
            raise RequestError(
                f"loops must be at most {self.max_loops} with {name}, not {loops}",
                parameter="think",
            )
        if request.steer is not None and len(request.steer) != len(self.clusters):
            raise RequestError(
                f"{self.checkpoint.name} has {len(self.clusters)} clusters to steer between, "
                f"not {len(request.steer)}",
                parameter="steer",
            )

    def _loop(self) -> None:
        while not self._closing:
            self._obey(wait=not self._live)
            plan = self._scheduler.plan()
            if plan:
                self._step(plan)
        for sequence in list(self._live.values()):
            self._end(sequence, sequence.finished("cancelled"))
        if self._warm is not None:
            self._warm.save()

    def _obey(self, *, wait: bool) -> None:
        try:
            if wait:
                self._cache.check()
                self._next_command()()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            pass

    def _next_command(self) -> Callable[[], None]:
        """Wait for a command; what is remembered is saved meanwhile."""
        while self._warm is not None and (due_s := self._warm.due_s) is not None:
            try:
                return self._commands.get(timeout=due_s)
            except queue.Empty:
                self._warm.save(is_idle=self._commands.empty)
        return self._commands.get()

    def _warm_pages(self) -> WarmPages | None:
        """Bring back what an engine before this one remembered, if it is to be kept."""
        if self.config.prefix_cache is None:
            return None
        pages = self._runner.pages
        found_by = fingerprint(self.checkpoint, pages, self.kernels)
        warm = WarmPages(self.config.prefix_cache, found_by, self._cache, pages)
        warm.restore()
        return warm

    def _step(self, plan: list[Work]) -> None:
        load, started = self._pace.load(plan), time.perf_counter()
        try:
            rows = self._runner.run(plan)
        except Exception:
            log.exception("step failed sequences=%d", len(plan))
            for work in plan:
                error = EngineError("the model failed on this request; the server's log says why")
                self._end(work.sequence, work.sequence.finished("error", error=error))
            return
        self._totals["steps"] += 1
        for work, row in zip(plan, rows, strict=True):
            self._advance(work, row)
        self._pace.note(load, time.perf_counter() - started)

    def _advance(self, work: Work, rows: Rows) -> None:
        sequence, num_certain = work.sequence, work.sequence.num_computed + work.num_tokens
        try:
            finished = advance(work, rows)
        except HeddleError as error:
            finished = sequence.finished("error", error=error)
        except Exception:
            log.exception("sampling failed request=%s", sequence.request.request_id)
            error = EngineError("choosing a token failed; the server's log says why")
            finished = sequence.finished("error", error=error)
        self._totals["guessed"] += len(work.draft)
        self._totals["true guesses"] += sequence.num_computed - num_certain
        self._scheduler.remember(sequence)
        if finished is not None:
            self._end(sequence, finished)

    def _begin(self, sequence: Sequence) -> None:
        self._live[sequence.request.request_id] = sequence
        self._scheduler.add(sequence)

    def _cancel(self, request_id: str) -> None:
        sequence = self._live.get(request_id)
        if sequence is not None:
            self._end(sequence, sequence.finished("cancelled"))

    def _end(self, sequence: Sequence, finished: Finished) -> None:
        self._scheduler.remove(sequence)
        del self._live[sequence.request.request_id]
        with self._admission:
            self._num_open -= 1
        self._totals["prompt"] += finished.num_prompt_tokens
        self._totals["cached"] += finished.num_cached_tokens
        self._totals["new"] += finished.num_new_tokens
        if finished.compute is not None:
            self._totals["loops"] += finished.compute.num_loops
            self._flops += finished.compute.flops
        self._mean_request_s += 0.1 * (
            time.monotonic() - sequence.submitted_at - self._mean_request_s
        )
        try:
            sequence.on_event(finished)
        except Exception:
            log.exception("listener failed request=%s", sequence.request.request_id)
