"""The order of batches: exact resume, disjoint ranks, shares, epochs."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.errors import ConfigError, DataError
from heddle.train.data.mix import Part
from heddle.train.data.stream import BatchStream
from tests.train.data.corpus import same, small_stream, take, task_documents, write_corpus


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def unbroken(shards):
    return take(small_stream(shards).batches(), 60)


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 40), again=st.integers(1, 10))
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(shards, unbroken, stop, again):
    cursor = None
    for place in (stop, stop + again):  # stopped twice, each time by way of a file
        if place:
            done = (cursor or {"num_batches": 0})["num_batches"]
            batches = take(small_stream(shards).batches(cursor), place - done)
            cursor = json.loads(json.dumps(batches[-1][1]))
    rest = take(small_stream(shards).batches(cursor), 8)
    for (batch, place), (expected, expected_place) in zip(
        rest, unbroken[stop + again :], strict=False
    ):
        assert same(batch, expected)
        assert place == expected_place


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_share_the_stream_of_one_process(shards, unbroken, num_ranks):
    readers = [
        small_stream(shards).batches(rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
    ]
    for step in range(4):
        parts = [next(reader) for reader in readers]
        for rank, (batch, cursor) in enumerate(parts):
            assert same(batch, unbroken[step * num_ranks + rank][0])
            assert cursor == unbroken[(step + 1) * num_ranks - 1][1], "all ranks save one place"


def test_another_number_of_ranks_can_go_on(shards, unbroken):
    _, cursor = take(small_stream(shards).batches(rank=1, num_ranks=2), 3)[-1]
    batch, _ = next(small_stream(shards).batches(cursor))
    assert same(batch, unbroken[6][0])


def test_a_place_is_small_and_does_not_change_later(shards):
    batches = small_stream(shards).batches()
    _, cursor = next(batches)
    text = json.dumps(cursor)
    take(batches, 20)
    assert json.dumps(cursor) == text
    assert len(text) < 2000


def test_seeds_give_other_orders(shards, unbroken):
    other, _ = next(small_stream(shards, seed=2).batches())
    assert not same(other, unbroken[0][0])


def test_shares_are_of_tokens(shards, unbroken):
    _, cursor = unbroken[-1]
    tokens = cursor["num_tokens"]
    total = sum(tokens.values())
    assert tokens["pages"] / total == pytest.approx(0.6, abs=0.03)
    assert tokens["sums"] / total == pytest.approx(0.2, abs=0.03)


def test_every_document_comes_once_an_epoch_in_a_new_order(shards):
    stream = BatchStream({"pages": Part(source=shards)}, seed=3, tokens_per_batch=64)
    num_tokens = shards.manifest.num_tokens
    tokens = [t for batch, _ in take(stream.batches(), 3 * num_tokens // 64) for t in batch.token_T]
    documents, document = [], []
    for token in tokens:
        document.append(int(token))
        if token == 0:
            documents.append(tuple(document))
            document = []
    size = shards.num_documents
    epochs = [documents[:size], documents[size : 2 * size]]
    expected = Counter(tuple(shards.read(i).token_N.tolist()) for i in range(size))
    assert Counter(epochs[0]) == Counter(epochs[1]) == expected
    assert epochs[0] != epochs[1]


def test_a_place_in_other_data_is_refused(shards, unbroken, tmp_path):
    _, cursor = unbroken[0]
    with pytest.raises(DataError, match="the data changed since the run was saved: seed was 1"):
        next(small_stream(shards, seed=2).batches(cursor))
    other = write_corpus(tmp_path, count=61)
    with pytest.raises(DataError, match="parts was"):
        next(small_stream(other).batches(cursor))
    with pytest.raises(DataError, match="damaged: stream is missing"):
        next(small_stream(shards).batches({}))
    with pytest.raises(DataError, match="damaged"):
        next(small_stream(shards).batches({"stream": cursor["stream"]}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parts": {}}, "at least one part"),
        ({"max_sequence": 65}, r"max_sequence must be from 1 to tokens_per_batch \(64\), not 65"),
        ({"max_sequence": 0}, "not 0"),
    ],
)
def test_impossible_streams_are_refused(shards, arguments, words):
    parts = {"pages": Part(source=shards)}
    with pytest.raises(ConfigError, match=words):
        next(
            BatchStream(
                **({"parts": parts, "seed": 1, "tokens_per_batch": 64} | arguments)
            ).batches()
        )
    with pytest.raises(ConfigError, match="share and loss_weight must be positive"):
        Part(source=shards, share=0)
    with pytest.raises(ConfigError, match="rank must be from 0 to 1, not 2"):
        next(small_stream(shards).batches(rank=2, num_ranks=2))


def test_an_example_longer_than_a_sequence_is_an_error_not_a_cut():
    source = task_documents("copy", lowest=40, highest=40)
    stream = BatchStream({"copies": Part(source=source)}, seed=1, tokens_per_batch=64)
    with pytest.raises(DataError, match="'copies' is 87 tokens long, and max_sequence is 64"):
        next(stream.batches())
