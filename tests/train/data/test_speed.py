"""Packing must never be what training waits for."""

import time
from itertools import islice

import numpy as np
import pytest

from heddle.train.data.mix import Part
from heddle.train.data.shard_writer import ShardWriter
from heddle.train.data.shards import Shards
from heddle.train.data.stream import BatchStream

MIN_TOKENS_PER_S = 2_000_000


@pytest.mark.parametrize(("document_tokens", "whole"), [(1000, False), (150, True)])
def test_packing_from_shards_is_fast(tmp_path, document_tokens, whole):
    writer = ShardWriter(tmp_path, "{}", vocab_size=50_000, end_id=0, whole=whole)
    ids = np.random.default_rng(0).integers(1, 50_000, document_tokens)
    for _ in range(2_000_000 // document_tokens):
        writer.add(ids, cluster=0, source="s", licence="l")
    writer.finish()
    stream = BatchStream({"s": Part(source=Shards(tmp_path))}, seed=1, tokens_per_batch=16_384)
    batches = stream.batches()
    next(batches)
    start = time.thread_time()
    num_tokens = sum(len(batch.token_T) for batch, _ in islice(batches, 120))
    assert num_tokens / (time.thread_time() - start) > MIN_TOKENS_PER_S
