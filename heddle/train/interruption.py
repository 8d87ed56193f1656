"""SIGTERM and SIGINT as a wish to stop soon, so that a run can finish its step and save."""

import signal
from types import FrameType


class Interruption:
    """While entered, a signal is only noted; the same one again acts as it always does."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.is_wanted = False

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.is_wanted = True
        signal.signal(number, self._before[signal.Signals(number)])
