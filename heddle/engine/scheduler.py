"""Which sequence runs how many tokens in the next step, and who waits.

Every generating sequence gets its one token, and guesses at the next ones where they pay; what is
left of the step's time goes to prompts. When pages run out the least urgent sequence gives its own
back and waits to be computed again.
"""

import bisect
from collections.abc import Callable

from heddle.engine.cache import PageCache
from heddle.engine.config import EngineConfig
from heddle.engine.pace import Pace
from heddle.engine.room import LEAST_TOKENS, Room
from heddle.engine.sequence import Sequence, Work
from heddle.engine.waiting import Waiting


class Scheduler:
    """Holds every live sequence, waiting or running (oldest first)."""

    def __init__(
        self,
        config: EngineConfig,
        cache: PageCache,
        pace: Pace,
        *,
        copy_page: Callable[[int, int], None] | None,
    ):
        """`copy_page` copies a page to another; None where a part of a page is of no use."""
        self._config, self._cache, self._pace = config, cache, pace
        self._copy_page = copy_page
        self._page_tokens = cache.page_tokens
        self._waiting = Waiting()
        self.running: list[Sequence] = []
        self.num_preempted = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, running or waiting; its full pages stay findable."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._give_back(sequence)

    def plan(self) -> list[Work]:
        """Choose the next step's work and see that its pages exist."""
        for sequence in list(self.running):
            if sequence.is_generating and sequence in self.running:
                self._reserve(sequence, 1)
        generating = [sequence for sequence in self.running if sequence.is_generating]
        work = self._with_guesses(generating)
        while len(self._waiting) and len(self.running) < self._config.max_running:
            if not self._admit():
                break
        return work + self._plan_prompts(work)

    def remember(self, sequence: Sequence) -> None:
        """Make the pages findable that a step has filled."""
        page_tokens = self._page_tokens
        for index in range(sequence.num_remembered_pages, sequence.num_computed // page_tokens):
            self._cache.remember(
                sequence.pages[index],
                parent=sequence.pages[index - 1] if index else None,
                variant=sequence.variant,
                tokens=sequence.tokens[index * page_tokens : (index + 1) * page_tokens],
            )
            sequence.num_remembered_pages = index + 1

    def _with_guesses(self, generating: list[Sequence]) -> list[Work]:
        """Add guesses to sequences' tokens; they take no page that a token could have wanted."""
        work: list[Work] = []
        num_rows, num_expected = len(generating), float(len(generating))
        most_rows = self._config.step_tokens - LEAST_TOKENS
        for sequence in generating:
            draft: list[int] = []
            most = min(self._most_guesses(sequence), most_rows - num_rows)
            if sequence.speculation is not None and most > 0:
                draft = sequence.speculation.draft(
                    sequence.tokens,
                    self._pace.cost,
                    num_rows=num_rows,
                    num_expected=num_expected,
                    most=most,
                )
                self._reserve(sequence, 1 + len(draft))
                num_rows += len(draft)
                num_expected += sequence.speculation.expected(len(draft))
            work.append(Work(sequence, 1, tuple(draft)))
        return work

    def _most_guesses(self, sequence: Sequence) -> int:
        """Return how many guesses a sequence has use and pages for."""
        free = len(sequence.pages) + self._cache.num_available
        return min(
            self._config.draft_tokens,
            sequence.request.max_new_tokens - sequence.num_generated - 1,
            free * self._page_tokens - sequence.num_computed - 1,
        )

    def _plan_prompts(self, generating: list[Work]) -> list[Work]:
        config, num_rows = self._config, sum(work.num_rows for work in generating)
        limit_s = config.shared_step_s if generating else config.step_s
        seconds = max(0.0, limit_s - self._pace.rows_s(num_rows))
        room = Room(self._pace, seconds=seconds, num_tokens=config.step_tokens - num_rows)
        prompts = [sequence for sequence in self.running if not sequence.is_generating]
        work: list[Work] = []
        for sequence, num_tokens in room.divide(prompts).items():
            if sequence not in self.running:  # another one took its pages
                continue
            if self._reserve(sequence, num_tokens, may_preempt=not generating and not work):
                work.append(Work(sequence, num_tokens))
        return work

    def _admit(self) -> bool:
        """Move the sequence whose turn it is to the running ones, if one may start now."""
        for sequence in self._waiting.in_turn(self.running):
            shareable = sequence.tokens[: sequence.num_shareable + 1]
            shared = self._cache.match(shareable, sequence.variant)
            if self._waits_for_prefix(sequence, len(shared)):
                continue
            if self.running and not self._has_pages_for(sequence, shared):
                # Let the running ones end: smaller requests must not overtake for ever.
                return False
            self._waiting.take(sequence)
            self._cache.take(shared)
            sequence.pages = shared
            sequence.num_computed = len(shared) * self._page_tokens
            sequence.num_remembered_pages = len(shared)
            self._copy_start(sequence)
            sequence.start()
            bisect.insort(self.running, sequence, key=lambda other: other.arrival)
            return True
        return False

    def _copy_start(self, sequence: Sequence) -> None:
        """Copy a page that begins as the sequence goes on behind what it shares."""
        if self._copy_page is None:
            return
        source, num_tokens = self._cache.find_start(
            sequence.tokens[sequence.num_computed : sequence.num_shareable],
            parent=sequence.pages[-1] if sequence.pages else None,
            variant=sequence.variant,
        )
        if source is None:
            return
        self._cache.take([source])  # so that it is not given away as the copy's page
        page = self._cache.allocate(after=sequence.pages[-1] if sequence.pages else None)
        if page is not None:
            self._copy_page(source, page)
            sequence.pages.append(page)
            sequence.num_computed += num_tokens
        self._cache.release([source])

    def _has_pages_for(self, sequence: Sequence, shared: list[int]) -> bool:
        """Whether its tokens and those of the running prompts have pages."""
        num_promised = sum(self._num_pages(other) - len(other.pages) for other in self.running)
        num_idle_shared = sum(self._cache.is_idle(page) for page in shared)
        num_free = self._cache.num_available - num_idle_shared - num_promised
        return self._num_pages(sequence) - len(shared) <= num_free

    def _num_pages(self, sequence: Sequence) -> int:
        """Return how many pages a sequence needs for the tokens it has, or holds already."""
        return max(len(sequence.pages), -(-len(sequence.tokens) // self._page_tokens))

    def _waits_for_prefix(self, sequence: Sequence, num_shared_pages: int) -> bool:
        """Whether a running prompt is about to compute a page that this sequence could share."""
        num_wanted = (num_shared_pages + 1) * self._page_tokens
        if num_wanted > sequence.num_shareable:
            return False
        wanted = sequence.tokens[:num_wanted]
        return any(
            other.num_computed < num_wanted
            and other.variant == sequence.variant
            and other.tokens[:num_wanted] == wanted
            for other in self.running
        )

    def _reserve(self, sequence: Sequence, num_tokens: int, *, may_preempt: bool = True) -> bool:
        """Give the sequence pages for its next tokens; False if it has to wait."""
        needed = -(-(sequence.num_computed + num_tokens) // self._page_tokens)
        while len(sequence.pages) < needed:
            page = self._cache.allocate(after=sequence.pages[-1] if sequence.pages else None)
            if page is not None:
                sequence.pages.append(page)
                continue
            victim = max(self.running, key=_rank)
            if not may_preempt and victim is not sequence:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.restart()
        self.num_preempted += 1
        self.add(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self._cache.release(sequence.pages)
        sequence.pages = []
        sequence.num_remembered_pages = 0


def _rank(sequence: Sequence) -> tuple[int, int]:
    """Return what is highest for the sequence that others may take pages from first."""
    return -sequence.request.priority, sequence.arrival
