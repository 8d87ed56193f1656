"""Which page of the cache holds what: allocation, sharing of prefixes, eviction. No tensors here.

A full page is remembered by its tokens and the page before it, so that equal prefixes are found
exactly, token for token, without hashes that could collide. Before a sequence's first page stands
its variant: what besides its tokens decides what is in its pages. Pages in use are counted; pages
that nobody uses any more keep their contents until the space is needed, least recently used first.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class _Variant(NamedTuple):
    """Stands in a key where a sequence's first page has no page before it."""

    of: Hashable


PageKey = tuple[int | _Variant, tuple[int, ...]]


@dataclass
class _Page:
    num_users: int = 0
    key: PageKey | None = None


class PageCache:
    """Hands out `num_pages` pages of `page_tokens` tokens each."""

    def __init__(self, *, num_pages: int, page_tokens: int):
        self.num_pages, self.page_tokens = num_pages, page_tokens
        self._pages = [_Page() for _ in range(num_pages)]
        self._blank = OrderedDict.fromkeys(range(num_pages))
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered, unused: oldest first
        self._by_key: dict[PageKey, int] = {}
        self._behind: dict[int | _Variant, dict[int, None]] = {}  # remembered, by the page before
        self.num_ever_remembered = 0

    @property
    def num_available(self) -> int:
        """Pages that `allocate` could hand out now."""
        return len(self._blank) + len(self._idle)

    @property
    def num_remembered(self) -> int:
        """Pages, used or idle, whose contents a new request could share."""
        return len(self._by_key)

    @property
    def num_used(self) -> int:
        """Pages that a sequence holds."""
        return self.num_pages - self.num_available

    def is_idle(self, page: int) -> bool:
        """Whether the page is remembered and in nobody's use."""
        return page in self._idle

    def match(self, tokens: Sequence[int], variant: Hashable = None) -> list[int]:
        """Return the remembered pages of the longest prefix shared in a variant, not yet taken.

        The last token is never among them: its logits are still to be computed.
        """
        pages: list[int] = []
        parent: int | _Variant = _Variant(variant)
        for start in range(0, len(tokens) - self.page_tokens, self.page_tokens):
            page = self._by_key.get((parent, tuple(tokens[start : start + self.page_tokens])))
            if page is None:
                break
            pages.append(page)
            parent = page
        return pages

    def find_start(
        self, tokens: Sequence[int], *, parent: int | None, variant: Hashable = None
    ) -> tuple[int | None, int]:
        """Return the page behind `parent` that begins most like `tokens`, and in how many.

        It is for copying: it may hold other tokens behind those. None if not even the first is
        alike.
        """
        best, most = None, 0
        for page in self._behind.get(_Variant(variant) if parent is None else parent, ()):
            _, held, _ = self.found_by(page)
            num_alike = next(
                (i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b),
                min(len(held), len(tokens)),
            )
            if num_alike > most:
                best, most = page, num_alike
        return best, most

    def take(self, pages: Sequence[int]) -> None:
        """Count one more user of each of these remembered pages."""
        for page in pages:
            self._idle.pop(page, None)
            self._pages[page].num_users += 1

    def allocate(self, *, after: int | None = None) -> int | None:
        """Return a fresh page, the neighbour of `after` if that is blank; None if all are in use.

        Neighbouring pages let attention read a sequence as one slice, without gathering.
        """
        if after is not None and after + 1 in self._blank:
            page = after + 1
            del self._blank[page]
        elif self._blank:
            page, _ = self._blank.popitem(last=False)
        else:
            page = self._evict()
            if page is None:
                return None
        self._pages[page].num_users = 1
        return page

    def remember(
        self, page: int, *, parent: int | None, tokens: Sequence[int], variant: Hashable = None
    ) -> None:
        """Make a full page findable; a second one of the same contents stays private."""
        key = (_Variant(variant) if parent is None else parent, tuple(tokens))
        assert len(key[1]) == self.page_tokens, "only full pages are remembered"
        if key in self._by_key or (parent is not None and self._pages[parent].key is None):
            return
        self._by_key[key] = page
        self._pages[page].key = key
        self.num_ever_remembered += 1
        self._behind.setdefault(key[0], {})[page] = None

    def remembered(self) -> list[int]:
        """Return all pages that can be found, the most recently used first.

        A page comes behind the one before it: whoever uses it uses that one too.
        """
        used = [page for page in self._by_key.values() if page not in self._idle]
        ordered: dict[int, None] = {}
        for page in [*used, *reversed(self._idle)]:
            chain, link = [], page
            while link is not None and link not in ordered:
                chain.append(link)
                link, *_ = self.found_by(link)
            ordered |= dict.fromkeys(reversed(chain))
        return list(ordered)

    def found_by(self, page: int) -> tuple[int | None, tuple[int, ...], Any]:
        """Return what a remembered page is found by: the page before it, its tokens, its variant.

        The variant is None behind a page: that one has it.
        """
        key = self._pages[page].key
        assert key is not None, f"page {page} is not remembered"
        before, tokens = key
        return (before, tokens, None) if isinstance(before, int) else (None, tokens, before.of)

    def release(self, pages: Sequence[int]) -> None:
        """Count one user less of each page; children are let go before their parents."""
        for page in reversed(pages):
            state = self._pages[page]
            assert state.num_users > 0, f"page {page} released twice"
            state.num_users -= 1
            if state.num_users == 0:
                if state.key is None:
                    self._blank[page] = None
                    self._blank.move_to_end(page, last=False)
                else:
                    self._idle[page] = None

    def _evict(self) -> int | None:
        """Forget the least recently used idle page that no remembered page builds on."""
        for page in self._idle:
            if page not in self._behind:
                del self._idle[page]
                self._forget(page)
                return page
        return None

    def _forget(self, page: int) -> None:
        key = self._pages[page].key
        assert key is not None
        del self._by_key[key]
        siblings = self._behind[key[0]]
        del siblings[page]
        if not siblings:
            del self._behind[key[0]]
        self._pages[page] = _Page()

    def check(self) -> None:
        """Assert that every page is accounted for; called when the engine falls idle."""
        held = {page for page, state in enumerate(self._pages) if state.num_users > 0}
        assert held.isdisjoint(self._blank) and held.isdisjoint(self._idle)
        assert len(held) + len(self._blank) + len(self._idle) == self.num_pages
        assert all(self._pages[page].key == key for key, page in self._by_key.items())
        behind = {(before, page) for before, pages in self._behind.items() for page in pages}
        assert behind == {(key[0], page) for key, page in self._by_key.items()}
