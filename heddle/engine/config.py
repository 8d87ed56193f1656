"""How the engine runs: sizes of its queues and cache, precision, threads."""

from dataclasses import dataclass
from typing import Literal

import torch

from heddle.errors import ConfigError

DType = Literal["float32", "bfloat16"]
CacheDType = Literal["auto", "float32", "bfloat16", "int8"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


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
        shared_step_tokens: the same while an answer is being generated, so that a long prompt does
            not stall it.
        dtype: precision of weights.
        cache_dtype: precision of the cache; "auto" is bfloat16 where native kernels read it, else
            that of the weights. int8 has a scale for each head of each token; only kernels read it.
        threads: PyTorch's and the kernels'; None: one a core.
        kernels: which build of the native kernels computes; "auto" is the best that there is and
            that the processor has, "torch" is none.
    """

    context_length: int | None = None
    cache_tokens: int | None = None
    page_tokens: int = 16
    max_running: int = 16
    max_waiting: int = 128
    step_tokens: int = 512
    shared_step_tokens: int = 64
    dtype: DType = "float32"
    cache_dtype: CacheDType = "auto"
    threads: int | None = None
    kernels: Literal["auto", "torch", "avx512", "avx2", "portable"] = "auto"

    def __post_init__(self):
        for name in ("context_length", "cache_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        for name in (
            "page_tokens",
            "max_running",
            "max_waiting",
            "step_tokens",
            "shared_step_tokens",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.step_tokens, self.shared_step_tokens) <= self.max_running:
            raise ConfigError(
                f"step_tokens and shared_step_tokens must exceed max_running ({self.max_running}): "
                "a step holds one token of every running sequence and some of a prompt"
            )
