"""Batches made ahead by a thread, in their order. Wrapped by stages around `BatchStream`."""

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class _Failed(NamedTuple):
    error: Exception


_END = object()


def prefetch(items: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """Yield the items unchanged while a thread makes up to `depth` of them ahead.

    What the iterator raises is raised here, in its turn. The thread ends when the items do, or when
    this iterator is closed or forgotten.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    is_closed = threading.Event()

    def put(item: object) -> bool:
        while not is_closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except Exception as error:  # the reader's to handle
            put(_Failed(error))
        else:
            put(_END)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # pyright: ignore[reportReturnType]  # what `items` gave
    finally:
        is_closed.set()
        thread.join()
