"""How the engine runs: sizes of its queues and cache, precision, threads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from heddle.errors import ConfigError

DType = Literal["float32", "bfloat16"]
CacheDType = Literal["auto", "float32", "bfloat16", "int8"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
# PyTorch really starts as many as it is told to, and thousands of them bring a machine to a stop.
MAX_THREADS = max(256, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of an `Engine`.

    Attributes:
        context_length: tokens of one sequence at most, prompt and answer; None: the model's own,
            8,192 at most.
        cache_tokens: tokens whose keys and values are kept; None: one context, 8,192 at least.
        page_tokens: tokens of a cache page; prefixes are shared in whole pages.
        max_running: sequences that are generated at once.
        max_waiting: requests that may queue before `submit` raises `BusyError`.
        step_tokens: tokens of one forward pass at most.
        step_s: seconds of one at most, as far as the engine can tell from those before, so that a
            long prompt does not keep new requests waiting.
        shared_step_s: the same while an answer is being generated: the gap between its tokens.
        shared_step_tokens: tokens of a prompt that are taken to fill a shared step, until one was
            measured.
        draft_tokens: guesses at most that a sequence may run ahead of its newest token where that
            is measured to pay; 0 is none.
        dtype: precision of weights.
        cache_dtype: precision of the cache; "auto" is bfloat16 where native kernels read it, else
            that of the weights. int8 has a scale for each head of each token; only kernels read it.
        threads: PyTorch's and the kernels'; None: one a core.
        kernels: which build of the native kernels computes; "auto" is the best that there is and
            that the processor has, "torch" is none.
        prefix_cache: a folder to keep what the cache remembers in, across restarts; None: nowhere.
    """

    context_length: int | None = None
    cache_tokens: int | None = None
    page_tokens: int = 16
    max_running: int = 16
    max_waiting: int = 128
    step_tokens: int = 512
    step_s: float = 0.5
    shared_step_s: float = 0.08
    shared_step_tokens: int = 64
    draft_tokens: int = 8
    dtype: DType = "float32"
    cache_dtype: CacheDType = "auto"
    threads: int | None = None
    kernels: Literal["auto", "torch", "avx512", "avx2", "dotprod", "neon", "portable"] = "auto"
    prefix_cache: Path | None = None

    def __post_init__(self):
        for name in ("context_length", "cache_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise ConfigError(
                f"threads must be at most {MAX_THREADS} on this machine, not {self.threads}: more "
                "than one a core only slow each other down"
            )
        for name in (
            "page_tokens",
            "max_running",
            "max_waiting",
            "step_tokens",
            "shared_step_tokens",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("step_s", "shared_step_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.draft_tokens < 0:
            raise ConfigError(f"draft_tokens must not be negative, not {self.draft_tokens}")
        if self.step_tokens <= self.max_running:
            raise ConfigError(
                f"step_tokens must exceed max_running ({self.max_running}): "
                "a step holds one token of every running sequence and some of a prompt"
            )
