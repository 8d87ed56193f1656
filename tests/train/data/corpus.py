"""A small folder of shards, sources and a tokenizer for the tests of `train.data`."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from heddle.tasks.table import TASKS
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.mix import Part
from heddle.train.data.pack import TrainBatch
from heddle.train.data.prepare import PrepareConfig, prepare
from heddle.train.data.shards import Shards
from heddle.train.data.stream import BatchStream
from heddle.train.data.task_documents import Curriculum, TaskDocuments
from heddle.train.data.vocabulary import train_tokenizer

CLUSTERS = ("factual", "symbolic", None)


@cache
def byte_tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(()))


def texts(count: int) -> list[str]:
    """Documents of 6 to 300 bytes, each with a number of its own."""
    return [f"Page {number}. " + "word " * (number * 7 % 60) for number in range(count)]


def write_corpus(folder: Path, count: int = 60, **settings) -> Shards:
    """Prepare a small corpus in several shards and return its training side."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.jsonl"
    rows = [
        {"text": text, "source": "pages", "licence": "CC0-1.0", "cluster": CLUSTERS[i % 3]}
        for i, text in enumerate(texts(count))
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = PrepareConfig(**({"shard_tokens": 2000, "validation_share": 0.0} | settings))
    prepare([file], folder / "shards", tokenizer_json=byte_tokenizer().json, config=config)
    return Shards(folder / "shards" / "train")


def task_documents(name: str, *, lowest: int = 4, highest: int = 8, **settings) -> TaskDocuments:
    curriculum = Curriculum(lowest=lowest, highest=highest)
    return TaskDocuments(TASKS[name], byte_tokenizer(), end_id=0, curriculum=curriculum, **settings)


def small_stream(shards: Shards, *, seed: int = 1) -> BatchStream:
    """Two kinds of sources, cut documents and whole ones, in batches of 256 tokens."""
    parts = {
        "pages": Part(source=shards, share=3),
        "sums": Part(source=task_documents("addition"), share=1, loss_weight=2.0),
        "moves": Part(source=task_documents("s5_tracking", dense=True), share=1),
    }
    return BatchStream(parts, seed=seed, tokens_per_batch=256, max_sequence=100)


def take(batches: Iterator, count: int) -> list:
    return list(islice(batches, count))


def same(a: TrainBatch, b: TrainBatch) -> bool:
    return a.bounds_S1 == b.bounds_S1 and all(
        (getattr(a, name) == getattr(b, name)).all() for name in a._fields if name != "bounds_S1"
    )
