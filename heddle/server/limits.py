"""How many requests and tokens may be under way, and how often each caller may ask."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from heddle.errors import QuotaError, RequestError
from heddle.server.failures import Failure

MAX_CALLERS = 10_000


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class Limits:
    """Counts requests under way and paces each caller by a token bucket of one minute's requests.

    A request's open tokens are those of its prompts and what its answers may have at most, from its
    start to its end. A limit of 0 is none. The oldest buckets are forgotten beyond `MAX_CALLERS`
    callers: a forgotten caller starts with a full one.
    """

    def __init__(
        self,
        *,
        max_open: int,
        max_open_per_caller: int = 0,
        max_open_tokens_per_caller: int = 0,
        requests_per_minute: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._max_open = max_open
        self._max_open_per_caller = max_open_per_caller
        self._max_open_tokens_per_caller = max_open_tokens_per_caller
        self._requests_per_minute = requests_per_minute
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._open_tokens: Counter[str] = Counter()
        self._buckets: dict[str, _Bucket] = {}
        self.num_open = 0

    def enter(self, caller: str) -> Failure | None:
        """Count a request in and return None, which needs a `leave`, or return why it must wait."""
        if self.num_open >= self._max_open:
            message = f"all {self._max_open} places for requests are taken: try again"
            return Failure(status=503, message=message, code="busy", retry_after_s=1)
        if self._max_open_per_caller and self._open[caller] >= self._max_open_per_caller:
            message = (
                f"{self._max_open_per_caller} of your requests are under way: wait for one to end"
            )
            return Failure(status=429, message=message, code="too_many_open", retry_after_s=1)
        wait_s = self._wait(caller)
        if wait_s:
            message = (
                f"more than {self._requests_per_minute} requests a minute: wait {wait_s:.0f} s"
            )
            return Failure(status=429, message=message, code="rate_limited", retry_after_s=wait_s)
        self.num_open += 1
        self._open[caller] += 1
        return None

    def leave(self, caller: str) -> None:
        """Count a request out."""
        self.num_open -= 1
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]

    def take_tokens(self, caller: str, num_tokens: int, *, most: int | None = None) -> None:
        """Count a request's tokens in, which needs a `give_back_tokens`.

        `most` is the caller's own limit, if it has one.

        Raises:
            RequestError: the request alone has more.
            QuotaError: it has to wait for others of the caller to end.
        """
        most = self._max_open_tokens_per_caller if most is None else most
        if most and num_tokens > most:
            raise RequestError(
                f"prompt and answer may have {num_tokens} tokens, but at most {most} of yours may "
                "be under way: send a lower max_tokens or less text",
                parameter="max_tokens",
                code="too_many_tokens",
            )
        if most and self._open_tokens[caller] + num_tokens > most:
            raise QuotaError(
                f"{self._open_tokens[caller]} of your tokens are under way and this request may "
                f"have {num_tokens}, {most} being the most: wait for one to end",
                retry_after_s=1,
            )
        self._open_tokens[caller] += num_tokens

    def give_back_tokens(self, caller: str, num_tokens: int) -> None:
        """Count a request's tokens out."""
        self._open_tokens[caller] -= num_tokens
        if not self._open_tokens[caller]:
            del self._open_tokens[caller]

    def _wait(self, caller: str) -> float:
        """Take a token from the caller's bucket and return 0, or the seconds until there is one."""
        rate = self._requests_per_minute
        if not rate:
            return 0.0
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or _Bucket(rate, now)
        bucket.tokens = min(rate, bucket.tokens + (now - bucket.filled_at) * rate / 60)
        bucket.filled_at = now
        self._buckets[caller] = bucket
        if len(self._buckets) > MAX_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        if bucket.tokens < 1:
            return (1 - bucket.tokens) * 60 / rate
        bucket.tokens -= 1
        return 0.0
