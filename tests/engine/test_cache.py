"""Pages: every one accounted for, prefixes found exactly, old ones given up first."""

import random

import pytest

from heddle.engine.cache import PageCache


def fill(cache: PageCache, tokens: list[int]) -> list[int]:
    """Hold pages for `tokens` and remember the full ones, as the scheduler does."""
    pages = cache.match(tokens)
    cache.take(pages)
    size = cache.page_tokens
    for index in range(len(pages), -(-len(tokens) // size)):
        page = cache.allocate(after=pages[-1] if pages else None)
        assert page is not None
        pages.append(page)
        full = tokens[index * size : (index + 1) * size]
        if len(full) == size:
            cache.remember(page, parent=pages[index - 1] if index else None, tokens=full)
    return pages


def test_a_prefix_is_found_up_to_the_last_whole_page_but_one_token():
    cache = PageCache(num_pages=8, page_tokens=4)
    pages = fill(cache, list(range(10)))
    cache.release(pages)
    assert cache.match(list(range(10))) == pages[:2]
    assert cache.match(list(range(8))) == pages[:1]  # the last token is always computed
    assert cache.match([*range(4), 99, 5, 6, 7, 8]) == pages[:1]
    assert cache.match([9, *range(9)]) == []


def test_a_prefix_is_shared_only_within_its_variant():
    cache = PageCache(num_pages=8, page_tokens=4)
    [first, *_] = deep = [cache.allocate(), cache.allocate()]
    cache.remember(first, parent=None, variant="deep", tokens=range(4))
    cache.release(deep)
    assert cache.match(list(range(10)), "deep") == [first]
    assert cache.match(list(range(10))) == []
    plain = fill(cache, list(range(10)))
    assert cache.match(list(range(10))) == plain[:2]
    cache.release(plain)
    cache.check()


def test_the_page_that_begins_most_like_what_is_asked():
    cache = PageCache(num_pages=8, page_tokens=4)
    first = fill(cache, list(range(4)))
    short, long = fill(cache, [0, 1, 2, 3, 4, 9, 9, 9]), fill(cache, [0, 1, 2, 3, 4, 5, 9, 9])
    parent = first[0]
    assert short[0] == long[0] == parent
    assert cache.find_start([4, 5, 6], parent=parent) == (long[1], 2)
    assert cache.find_start([4], parent=parent)[1] == 1
    assert cache.find_start([4, 9, 9, 9, 9], parent=parent) == (short[1], 4)
    assert cache.find_start([0, 1, 7], parent=None) == (parent, 2)
    assert cache.find_start([0, 1], parent=None, variant="deep") == (None, 0)
    assert cache.find_start([9], parent=parent) == cache.find_start([], parent=parent) == (None, 0)
    assert cache.find_start([1], parent=long[1]) == (None, 0)


def test_new_pages_are_neighbours():
    cache = PageCache(num_pages=8, page_tokens=4)
    assert fill(cache, list(range(20))) == [0, 1, 2, 3, 4]


def test_the_least_recently_used_prefix_goes_first():
    cache = PageCache(num_pages=4, page_tokens=2)
    old, new = [1, 2, 3, 4, 5], [6, 7, 8]
    cache.release(fill(cache, old))
    cache.release(fill(cache, new))
    cache.release(fill(cache, old))  # used again: now `new` is the oldest
    fill(cache, [9, 10, 11, 12])
    assert len(cache.match(old)) >= 1
    assert cache.match(new) == []
    cache.check()


def test_a_page_in_use_is_never_given_away():
    cache = PageCache(num_pages=3, page_tokens=2)
    held = fill(cache, [1, 2, 3, 4, 5])
    assert cache.allocate() is None
    cache.release(held)
    assert cache.allocate() is not None


def test_releasing_twice_is_our_bug():
    cache = PageCache(num_pages=2, page_tokens=2)
    pages = fill(cache, [1, 2, 3])
    cache.release(pages)
    with pytest.raises(AssertionError, match="twice"):
        cache.release(pages[-1:])


def test_random_use_keeps_the_books():
    generator = random.Random(0)
    cache = PageCache(num_pages=24, page_tokens=2)
    held: list[tuple[list[int], list[int]]] = []
    for _ in range(3000):
        if held and (generator.random() < 0.5 or cache.num_available < 6):
            _, pages = held.pop(generator.randrange(len(held)))
            cache.release(pages)
        else:
            tokens = [generator.randrange(3) for _ in range(generator.randrange(1, 11))]
            held.append((tokens, fill(cache, tokens)))
        cache.check()
        assert cache.num_used == len({page for _, pages in held for page in pages})
