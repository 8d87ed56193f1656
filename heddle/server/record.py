"""What the server notes of a request, for its log line, the metrics and the response's headers."""

import secrets
import time
from dataclasses import dataclass, field

from heddle.server.dial import ANYTHING, Bounds


@dataclass(kw_only=True)
class RequestRecord:
    """Filled by who knows: `gate` the caller, `turn` the cost. Never holds a prompt or a key.

    `flops` is known of a request that was not cut off.
    """

    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started_at: float = field(default_factory=time.perf_counter)
    caller: str = "-"
    bounds: Bounds = ANYTHING
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_new_tokens: int = 0
    flops: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
