"""What a batch holds: full rows, positions that begin anew, targets that stay in their document."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.model.batch import Packed
from heddle.model.memory import WholeSequences
from heddle.train.data.document import IGNORED, Document
from heddle.train.data.mix import Part
from heddle.train.data.pack import TrainBatch, by_length, pack_whole
from heddle.train.data.stream import BatchStream
from tests.tiny import tiny_config, tiny_model
from tests.train.data.corpus import byte_tokenizer, small_stream, take, task_documents, write_corpus


def decoded(ids) -> str:
    return byte_tokenizer().decode([int(i) for i in ids], skip_special=False)


def sequences(batch):
    return zip(batch.bounds_S1, batch.bounds_S1[1:], strict=False)


@settings(max_examples=20, deadline=None)
@given(
    tokens_per_batch=st.integers(20, 300),
    max_sequence=st.integers(1, 300),
    count=st.integers(1, 40),
)
def test_every_token_but_the_first_of_a_document_is_a_target_once(
    tmp_path_factory, tokens_per_batch, max_sequence, count
):
    shards = write_corpus(tmp_path_factory.mktemp("corpus"), count=count)
    max_sequence = min(max_sequence, tokens_per_batch)
    stream = BatchStream(
        {"pages": Part(source=shards)},
        seed=5,
        tokens_per_batch=tokens_per_batch,
        max_sequence=max_sequence,
    )
    epoch_tokens = shards.manifest.num_tokens
    batches = [batch for batch, _ in take(stream.batches(), 1 + epoch_tokens // tokens_per_batch)]
    token = torch.cat([batch.token_T for batch in batches])
    target = torch.cat([batch.target_T for batch in batches])
    ends = token == 0
    assert (target[ends] == IGNORED).all(), "no target crosses a document"
    assert (target[:-1][~ends[:-1]] == token[1:][~ends[:-1]]).all()
    for batch in batches:
        assert len(batch.token_T) == tokens_per_batch == batch.bounds_S1[-1]
        for start, end in sequences(batch):
            assert 0 < end - start <= max_sequence
            assert (batch.position_T[start:end] == torch.arange(end - start)).all()
            assert (batch.token_T[start : end - 1] != 0).all(), "one document a sequence"


def test_examples_come_whole_and_what_fills_a_row_is_not_learned():
    stream = BatchStream(
        {"sums": Part(source=task_documents("addition"))}, seed=1, tokens_per_batch=100
    )
    learned = []
    num_fillings = 0
    for batch, _ in take(stream.batches(), 20):
        for start, end in sequences(batch):
            text = decoded(batch.token_T[start:end])
            target = batch.target_T[start:end]
            if (target == IGNORED).all():
                assert end == 100
                num_fillings += 1
                continue
            prompt, answer = text.removesuffix("<|endoftext|>").split("=")
            assert str(eval(prompt)) == answer
            wanted = (target != IGNORED).nonzero()[:, 0]
            assert wanted[0] == len(prompt), "learned from the equals sign on"
            assert decoded(target[wanted]) == f"{answer}<|endoftext|>"
            learned.append(prompt)
    assert num_fillings > 10
    assert len(set(learned)) == len(learned)


def test_dense_labels_stand_at_their_moves():
    source = task_documents("s5_tracking", dense=True)
    for number in range(10):
        token_N, target_N, _ = source.read(number)
        text = decoded(token_N)
        word = text.split()[1].split("=")[0]
        first = text.index(word)
        assert (target_N[:first] == IGNORED).all()
        labels = decoded(target_N[first : first + len(word)])
        assert len(labels) == len(word)
        assert labels[-1] == text.split("=")[1][0], "after all moves: the answer's first item"
        assert decoded(target_N[first + len(word) : -1]) == text.split("=")[1]


def test_every_token_knows_its_part_cluster_and_weight(tmp_path):
    shards = write_corpus(tmp_path)
    seen = set()
    for batch, _ in take(small_stream(shards).batches(), 30):
        for start, end in sequences(batch):
            part, cluster = batch.part_T[start].item(), batch.cluster_T[start].item()
            assert (batch.part_T[start:end] == part).all()
            assert (batch.cluster_T[start:end] == cluster).all()
            assert (batch.weight_T[start:end] == (2.0 if part == 1 else 1.0)).all()
            seen.add((part, cluster))
    assert seen == {(0, 0), (0, 2), (0, -1), (1, 2), (2, 1)}


def test_no_sequence_sees_another(tmp_path):
    """A model's states of one sequence do not change when the others do."""
    [(batch, _)] = take(small_stream(write_corpus(tmp_path)).batches(), 1)
    model = tiny_model(tiny_config())

    def states(token_T):
        packed = Packed(token_T, batch.position_T, batch.bounds_S1, torch.arange(1))
        with torch.inference_mode():
            return model(packed, WholeSequences(batch.bounds_S1)).hidden_TD

    start, end = batch.bounds_S1[2:4]
    changed = torch.full_like(batch.token_T, 7)
    changed[start:end] = batch.token_T[start:end]
    torch.testing.assert_close(states(batch.token_T)[start:end], states(changed)[start:end])


def test_a_batch_moves_to_a_device(tmp_path):
    [(batch, _)] = take(small_stream(write_corpus(tmp_path)).batches(), 1)
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in moved if isinstance(t, torch.Tensor)} == {"meta"}
    assert moved.bounds_S1 == batch.bounds_S1


def test_whole_documents_lie_by_their_lengths():
    documents = [Document(np.arange(n), np.arange(n) + 1, n % 2) for n in (5, 3, 5, 4)]
    batch = pack_whole(documents)
    assert batch.bounds_S1 == (0, 3, 7, 12, 17)
    assert batch.position_T.tolist() == batch.token_T.tolist()
    assert (batch.target_T == batch.token_T + 1).all()
    assert batch.cluster_T.tolist() == [1] * 3 + [0] * 4 + [1] * 10


def test_a_batch_by_length_holds_the_same_sequences():
    documents = [Document(np.arange(n) + 10 * n, np.arange(n), -1) for n in (5, 3, 4)]
    ordered = pack_whole(documents)
    order = torch.cat([torch.arange(7, 12), torch.arange(0, 3), torch.arange(3, 7)])
    fields = {name: x[order] for name, x in ordered._asdict().items() if name != "bounds_S1"}
    again = by_length(TrainBatch(**fields, bounds_S1=(0, 5, 8, 12)))
    assert again.bounds_S1 == ordered.bounds_S1
    assert all(torch.equal(getattr(again, name), getattr(ordered, name)) for name in fields)
