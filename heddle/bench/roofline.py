"""How near the engine comes to what the machine allows: bytes, operations, and measured bounds.

`heddle bench roofline` runs it. A token cannot be decoded faster than its weights are read, nor a
prompt read faster than its products are computed (Williams, Waterman and Patterson 2009,
doi:10.1145/1498765.1498785). docs/bench.md says what each figure is. The machine and the engine are
measured in turns.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from heddle.bench.compare import SETTLE_S, started
from heddle.bench.environment import describe_environment
from heddle.bench.measure import DECODE, PREFILL, Measurement, percentile, prompt_ids
from heddle.bench.report import NO_PEER, Json
from heddle.bench.worker import WorkerSettings
from heddle.engine.config import EngineConfig
from heddle.engine.load import chosen_kernels
from heddle.errors import ConfigError
from heddle.kernels.packing import GROUP, KINDS, can_pack
from heddle.model.config import ModelConfig
from heddle.model.cost import forward_flops, keys_attended
from heddle.weights.checkpoint import Checkpoint, open_checkpoint

FAR_BYTES = 512 << 20  # far more than caches hold
GEMM_SIZE, GEMM_ROUNDS = 1024, 4
GROUP_BYTES = {
    "nibbles": 20,
    "bytes": 34,
}  # of 32 columns as the kernels read them, scales included
CACHE_ITEM_BYTES = {True: 2, False: 4}  # by whether kernels read it: bfloat16, or float32


class Work(NamedTuple):
    """What a token takes: bytes read to decode one, operations of one decoded, and of one read."""

    weight_bytes: int
    cache_bytes: int
    decode_flops: float
    prefill_flops: float


class Rates(NamedTuple):
    """What the machine does in a second: gigabytes read, and giga-operations of products.

    `read_far` is from memory, `read_near` from a buffer of a token's bytes that is read again and
    again, as weights are: part of it may stay in the last cache. `one` is by one thread.
    """

    read_far_one: float
    read_far_all: float
    read_near_one: float
    read_near_all: float
    gemm_float32: float
    gemm_int8: float


class Round(NamedTuple):
    """One round: the machine, then the engine, in tokens a second."""

    rates: Rates
    decode: float
    prefill: float


def token_work(checkpoint: Checkpoint, *, is_native: bool) -> Work:
    """Count what DECODE and PREFILL take of a dense network, by the token."""
    config = checkpoint.config
    if config.fabric or config.think or config.memory:
        raise ConfigError(
            f"{checkpoint.name} is adaptive: what a token takes depends on the token; measure the "
            "dense model under it"
        )
    skipped = () if config.tied_embeddings else ("embed.weight",)  # one row of it is read
    weights = [_bytes_read(checkpoint, name, is_native) for name in checkpoint.tensors]
    num_past = DECODE.num_prompt_tokens + DECODE.num_new_tokens // 2
    kept = 2 * config.num_layers * config.num_kv_heads * config.head_width
    return Work(
        weight_bytes=sum(weights) - sum(_bytes_read(checkpoint, n, is_native) for n in skipped),
        cache_bytes=kept * num_past * CACHE_ITEM_BYTES[is_native],
        decode_flops=forward_flops(config, num_tokens=1, num_attended=num_past + 1),
        prefill_flops=_prompt_flops(config, PREFILL.num_prompt_tokens) / PREFILL.num_prompt_tokens,
    )


def measure_roofline(
    path: Path, *, threads: int, num_rounds: int, on_round: Callable[[str], None]
) -> Json:
    """Measure machine and engine in turns, and return what share of each bound is reached."""
    checkpoint = open_checkpoint(path)
    is_native = chosen_kernels(EngineConfig(threads=threads)) is not None
    work = token_work(checkpoint, is_native=is_native)
    settings = WorkerSettings(path=str(path), threads=threads, context_length=2048, dtype="float32")
    rounds: list[Round] = []
    with started("heddle", settings) as worker:

        def speed(measurement: Measurement, index: int) -> float:
            time.sleep(SETTLE_S)
            seed = f"{measurement.name} {index}"
            vocab_size, length = worker.contender.vocab_size, measurement.num_prompt_tokens
            prompt = prompt_ids(vocab_size, length, seed=seed)
            return measurement.value(worker.generate([prompt], measurement.num_new_tokens))

        for index in range(num_rounds + 1):
            rates = machine_rates(work.weight_bytes + work.cache_bytes, threads=threads)
            found = Round(rates, speed(DECODE, index), speed(PREFILL, index))
            if index > 0:
                rounds.append(found)
                on_round(f"{rates.read_near_all:.1f} GB/s, {found.decode:.1f} tokens/s")
    return {
        **_figures(work, rounds),
        "rounds": num_rounds,
        "threads": threads,
        "model": path.name,
        "environment": describe_environment(),
    }


def machine_rates(token_bytes: int, *, threads: int) -> Rates:
    """Measure reading and products, the best of several tries each."""
    near = torch.ones(max(1, token_bytes // 8), dtype=torch.int64)
    far = torch.ones(FAR_BYTES // 8, dtype=torch.int64)
    exact = torch.randn(GEMM_SIZE, GEMM_SIZE)
    rounded = torch.randint(-127, 128, (GEMM_SIZE, GEMM_SIZE), dtype=torch.int8)
    operations = 2 * GEMM_SIZE**3
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        far_one, near_one = (_rate(x.nbytes, x.sum) for x in (far, near))
        torch.set_num_threads(threads)
        far_all, near_all = (_rate(x.nbytes, x.sum) for x in (far, near))
        float32 = _rate(operations, lambda: exact @ exact)
        int8 = _rate(operations, lambda: torch.ops.aten._int_mm(rounded, rounded))
    finally:
        torch.set_num_threads(before)
    return Rates(far_one, far_all, near_one, near_all, float32, int8)


def _rate(amount: int, act: Callable[[], object]) -> float:
    """Return how many thousand millions of something an act does in a second, at its best."""
    act()
    times = []
    for _ in range(GEMM_ROUNDS):
        started_at = time.perf_counter()
        act()
        times.append(time.perf_counter() - started_at)
    return amount / min(times) / 1e9


def _bytes_read(checkpoint: Checkpoint, name: str, is_native: bool) -> int:
    """Return the size of a tensor as the engine holds it."""
    parts = checkpoint.tensors[name]
    num_params = sum(part.shape.numel() for part in parts)
    if not is_native or not can_pack(parts):
        return 4 * num_params
    [kind] = {KINDS[part.format] for part in parts if not isinstance(part, torch.Tensor)}
    return num_params // GROUP * GROUP_BYTES[kind]


def _prompt_flops(config: ModelConfig, num_tokens: int) -> float:
    """Return the operations of a prompt of which only the last token's logits are wanted."""
    num_attended = keys_attended(config, first=0, num=num_tokens)
    whole = forward_flops(config, num_tokens=num_tokens, num_attended=num_attended)
    return whole - 2 * (num_tokens - 1) * config.vocab_size * config.width


def _figures(work: Work, rounds: list[Round]) -> Json:
    token_gb = (work.weight_bytes + work.cache_bytes) / 1e9

    def median(value: Callable[[Round], float]) -> float:
        return round(percentile([value(each) for each in rounds], 50), 3)

    return {
        "name": "roofline",
        "unit": "share of read_near_all",
        "ours": median(lambda each: each.decode * token_gb / each.rates.read_near_all),
        **NO_PEER,
        **work._asdict(),
        "decode": median(lambda each: each.decode),
        "prefill": median(lambda each: each.prefill),
        **{
            name: median(lambda each, name=name: getattr(each.rates, name))
            for name in Rates._fields
        },
        "decode_bound": median(lambda each: each.rates.read_near_all / token_gb),
        "decode_share_far": median(lambda each: each.decode * token_gb / each.rates.read_far_all),
        "decode_share_int8": median(
            lambda each: each.decode * work.decode_flops / each.rates.gemm_int8 / 1e9
        ),
        "prefill_share_float32": median(
            lambda each: each.prefill * work.prefill_flops / each.rates.gemm_float32 / 1e9
        ),
        "prefill_share_int8": median(
            lambda each: each.prefill * work.prefill_flops / each.rates.gemm_int8 / 1e9
        ),
    }
