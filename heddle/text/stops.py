"""Stop strings, found in text that arrives in pieces."""

from collections.abc import Iterable, Sequence

from heddle.errors import RequestError


def num_held(text: str, marks: Iterable[str]) -> int:
    """Return the length of the longest end of `text` that may begin one of `marks`."""
    longest = 0
    for mark in marks:
        for size in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:size]):
                longest = size
                break
    return longest


class StopScanner:
    """Lets text through up to the first of some stop strings, which itself is left out.

    Text that may be the beginning of a stop string is held back until the next piece decides. The
    first stop string to be complete wins, of those that end together the longest, however the text
    is cut into pieces. `stopped` is the string that was found.
    """

    def __init__(self, stops: Sequence[str]):
        if "" in stops:
            raise RequestError("a stop string must not be empty", parameter="stop")
        self.stopped: str | None = None
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> str:
        """Return the text that is now known to lie before any stop string; nothing once stopped."""
        if self.stopped is not None:
            return ""
        text = self._held + text
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if found:
            _, start, self.stopped = min(found)
            self._held = ""
            return text[:start]
        end = len(text) - num_held(text, self._stops)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """Return the text still held back, which the end of the stream has cleared."""
        held, self._held = self._held, ""
        return held
