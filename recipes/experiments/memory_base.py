"""The default model's recall from 1,000 to 128,000 tokens: exactly, through slots, through pages.

    python -m recipes.experiments.memory_base --write

The model's weights are its base's: what `heddle upcycle` adds changes nothing at one loop, and its
poolers begin as plain means. All is read and answered by the engine.
"""

import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from heddle.config import DEFAULT_MODEL
from heddle.engine.config import DTYPES, EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.pages import Pages, page_tokens
from heddle.engine.request import Event, Finished, Request, Sampling, TokenEvent
from heddle.evals.stats import share
from heddle.model.config import MemoryConfig, ModelConfig, Tier
from heddle.model.cost import keys_attended
from heddle.tasks.recall import PASSKEY
from heddle.text.tokenizer import Tokenizer
from heddle.train.chart import Lines
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.hub import resolve
from recipes.experiments.experiment import Experiment, Figures, Found, Table, run

NAMES = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry", "Irene", "Jonas")
NUM_FACTS = 4
ROOM = 64  # tokens for a question and its answer


class Reading(NamedTuple):
    """How the past is read; None is full attention. `mass` is added to the logits of all slots."""

    memory: MemoryConfig | None
    most_tokens: int
    mass: float = 0.0


# A window of 128 tokens and 4 sinks in all; then four blocks of 64 with a slot for 4 tokens, then a
# slot for 16. With an index what is old is seen in pages alone, as if at most 1,024 tokens back.
SLOTS = MemoryConfig(window_blocks=2, tiers=(Tier(4, 4), Tier(16, None)))
NO_WEIGHT = -1e9
INDEXED = replace(SLOTS, tiers=(), paged_blocks=8, index_ratio=16, distance_blocks=16)
READINGS = {
    "full attention": Reading(None, 8192),
    "window only": Reading(replace(SLOTS, tiers=(Tier(64, None),)), 4096, NO_WEIGHT),
    "mean-pooled slots": Reading(SLOTS, 4096),
    "slots and 4 pages, chosen by slots": Reading(replace(SLOTS, paged_blocks=4), 4096),
    "slots and 4 pages, chosen by an index": Reading(
        replace(INDEXED, tiers=(Tier(4, 4), Tier(16, 10)), paged_blocks=4), 4096
    ),
    "8 pages, chosen by an index": Reading(INDEXED, 1 << 20),
}
# How many texts each seed reads of each length, in the short form and in the full one.
TEXTS: dict[int, tuple[Sequence[int], Sequence[int]]] = {
    1024: ((2, 2, 0), (4, 4, 4)),
    2048: ((1, 0, 0), (2, 2, 2)),
    4096: ((1, 0, 0), (2, 2, 2)),
    8192: ((1, 0, 0), (2, 2, 2)),
    16384: ((1, 0, 0), (1, 1, 1)),
    32768: ((1, 0, 0), (1, 1, 1)),
    65536: ((0, 0, 0), (1, 1, 1)),
    131072: ((0, 0, 0), (1, 0, 0)),
}
WORDS_A_TOKEN = 0.66  # between key and question, so that the longest text still fits


class Text(NamedTuple):
    """What is read, and questions with their answers, by kind."""

    said: str
    asked: Mapping[str, Sequence[tuple[str, str]]]


def draw_text(num_tokens: int, index: int) -> Text:
    """Draw a text of so many tokens at most: a passkey in prose, with four facts anywhere in it."""
    example = PASSKEY.example("test", index, difficulty=int(num_tokens * WORDS_A_TOKEN))
    rng = Random(f"facts {num_tokens} {index}")
    facts = {name: str(rng.randrange(100, 1000)) for name in rng.sample(NAMES, NUM_FACTS)}
    said, _, question = example.prompt.rpartition(" What ")
    sentences = said.split(". ")
    for name, value in facts.items():
        sentences.insert(rng.randrange(1, len(sentences)), f"The number of {name} is {value}")
    asked = [
        (f" What is the number of {name}?\nThe number of {name} is ", value)
        for name, value in facts.items()
    ]
    passkey = (f" What {question}The passkey is ", example.answer)
    return Text(". ".join(sentences), {"passkeys": [passkey], "facts": asked})


def trial(num_tokens: int, seed: int, full: bool, folder: Path) -> Figures:
    """Ask the default model what some texts of a length said, read in every way."""
    num = TEXTS[num_tokens][full][seed]
    texts = [draw_text(num_tokens, 100 * seed + index) for index in range(num)]
    readings = {name: each for name, each in READINGS.items() if each.most_tokens >= num_tokens}
    if not texts:
        return {"found": {}}
    opened = open_checkpoint(resolve(DEFAULT_MODEL))
    return {"found": {name: recall(opened, texts, each) for name, each in readings.items()}}


def recall(opened: Checkpoint, texts: Sequence[Text], reading: Reading) -> Figures:
    """Return how much greedy decoding finds, and what reading took."""
    tokenizer = Tokenizer(opened.tokenizer_json)
    said = [tokenizer.encode(text.said) for text in texts]
    most = max(map(len, said)) + ROOM
    checkpoint = with_memory(opened, reading, context_length=most)
    settings = EngineConfig(context_length=most, cache_tokens=most, step_s=10, threads=1)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    engine = Engine(checkpoint, settings)
    kinds: dict[str, list[bool]] = {"passkeys": [], "facts": [], "digits": []}
    started = time.perf_counter()
    try:
        for text, tokens in zip(texts, said, strict=True):
            for kind, asked in text.asked.items():
                for question, answer in asked:
                    wanted = tokenizer.encode(answer)
                    got = _answer(engine, [*tokens, *tokenizer.encode(question)], len(wanted))
                    kinds[kind].append(got == wanted)
                    if kind == "passkeys":
                        kinds["digits"] += [a == b for a, b in zip(got, wanted, strict=True)]
        is_native = engine.kernels is not None
    finally:
        engine.close()
    seconds, last = time.perf_counter() - started, most - 1
    memory = checkpoint.config.memory
    index = memory.index_ratio if memory else None
    old = memory.num_old(last // memory.block_tokens) * memory.block_tokens if memory else 0
    return {
        "right": {kind: sum(right) for kind, right in kinds.items()},
        "asked": {kind: len(right) for kind, right in kinds.items()},
        "texts": len(texts),
        "tokens": sum(map(len, said)),
        "keys_read": keys_read(checkpoint.config, last),
        "index_keys": old // index if index else 0,
        "kept_bytes": _kept_bytes(checkpoint.config, most, is_native),
        "peak_bytes": _peak_bytes(),
        "seconds": round(seconds, 1),
    }


def with_memory(opened: Checkpoint, reading: Reading, *, context_length: int) -> Checkpoint:
    """Return the model with another memory, whose poolers begin as plain means."""
    memory = reading.memory
    config = replace(opened.config, context_length=context_length, memory=memory)
    if memory is None:
        return replace(opened, config=config)
    heads = (config.num_kv_heads, config.head_width)
    new = {
        f"layers.{layer}.attention.pool.{name}": [value]
        for layer in range(config.num_layers)
        for name, value in (
            ("salience", torch.zeros(2, *heads)),
            ("mass", torch.full((len(memory.tiers),), reading.mass)),
        )
    }
    return replace(opened, config=config, tensors={**opened.tensors, **new})


def keys_read(config: ModelConfig, position: int) -> int:
    """Return how many keys and values a layer's attention reads for a token."""
    if config.memory is None:
        return position + 1
    memory = replace(config.memory, index_ratio=None, distance_blocks=None, tiers=(Tier(64, None),))
    slots = config.memory.num_slots(position + 1)
    bare = keys_attended(replace(config, memory=memory), first=position, num=1)
    return bare - memory.num_slots(position + 1) + slots


def _answer(engine: Engine, prompt: Sequence[int], num_tokens: int) -> list[int]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    request = Request(
        request_id=f"{time.monotonic_ns()}",
        prompt=tuple(prompt),
        max_new_tokens=num_tokens,
        sampling=Sampling(temperature=0),
    )
    engine.submit(request, events.put)
    found: list[int] = []
    while not isinstance(event := events.get(), Finished):
        if isinstance(event, TokenEvent):
            found.append(event.token_id)
    return found + [-1] * (num_tokens - len(found))  # where it ended itself


def _kept_bytes(config: ModelConfig, num_tokens: int, is_native: bool) -> int:
    """Return what the cache keeps of so many tokens: that of a page, times pages."""
    size = page_tokens(config, EngineConfig())
    dtype = DTYPES["bfloat16" if is_native else "float32"]
    pages = Pages(config, num_pages=1, page_tokens=size, dtype=dtype, is_native=is_native)
    return sum(part.nbytes for part in pages.parts(0)) * -(-num_tokens // size)


def _peak_bytes() -> int:
    """Return the most memory that this process held since its peak was last forgotten (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def tables(found: Found) -> list[Table]:
    """Return what stands on the page."""
    recalled, held = [], []
    for arm in found:
        for name in READINGS:
            each = _of(found, arm, name)
            if not each:
                continue
            tokens = sum(one["tokens"] for one in each) / sum(one["texts"] for one in each)
            cells = [_cell(each, kind) for kind in ("passkeys", "digits", "facts")]
            recalled.append([f"{tokens:,.0f}", name, *(part for cell in cells for part in cell)])
            most = max(each, key=lambda one: one["kept_bytes"])
            speed = sum(one["tokens"] for one in each) / sum(one["seconds"] for one in each)
            numbers = (most["keys_read"], most["index_keys"])
            sizes = (most["kept_bytes"] / 2**20, most["peak_bytes"] / 2**20, speed)
            held.append([f"{tokens:,.0f}", name, *(f"{number:,.0f}" for number in numbers + sizes)])
    columns = ["tokens", "read through", "passkeys", "share", "their digits", "share", "facts"]
    takes = ["keys read a layer", "index keys scored", "MiB kept", "MiB, the process's peak"]
    return [
        Table("What the default model finds", [*columns, "share"], recalled),
        Table(
            "What the last token reads, and what reading takes",
            ["tokens", "read through", *takes, "tokens/s, questions included"],
            held,
        ),
    ]


def panels(found: Found) -> list[Lines]:
    """Return what the picture shows."""
    return [
        Lines(
            title=title,
            x_label="tokens",
            y_label="found",
            lines={
                name: [
                    (int(arm), _total(each, "right", kind) / _total(each, "asked", kind))
                    for arm in found
                    if (each := _of(found, arm, name))
                ]
                for name in READINGS
            },
            is_log_x=True,
            is_share=True,
        )
        for kind, title in (("passkeys", "Passkeys"), ("facts", "Facts"))
    ]


def _of(found: Found, arm: str, name: str) -> list[Figures]:
    trials = found[arm].values()
    return [trial["found"][name] for trial in trials if name in trial["found"]]


def _total(each: Sequence[Figures], what: str, kind: str) -> int:
    return sum(one[what][kind] for one in each)


def _cell(each: Sequence[Figures], kind: str) -> tuple[str, str]:
    right, num = _total(each, "right", kind), _total(each, "asked", kind)
    value, low, high, _ = share(right, num)
    return f"{right} of {num}", f"{value:.0%} ({low:.0%} to {high:.0%})"


EXPERIMENT = Experiment(
    name="memory_base",
    title="The default model's recall by length",
    arms={str(length): partial(trial, length) for length in TEXTS},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
