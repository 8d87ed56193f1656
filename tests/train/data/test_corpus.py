import json

import pytest

from heddle.errors import ConfigError, DataError
from heddle.model.config import CLUSTERS
from heddle.tasks.table import find
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.corpus import Corpus
from heddle.train.data.document import IGNORED
from heddle.train.data.prepare import PrepareConfig, prepare
from heddle.weights.checkpoint import open_checkpoint
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return open_checkpoint(save_tiny(tmp_path_factory.mktemp("start") / "tiny"))


@pytest.fixture(scope="module")
def text(tmp_path_factory, start) -> str:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": f"Row {n} of the loom. " * 8, "cluster": "creative"} for n in range(200)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(
        [folder / "rows.jsonl"],
        folder / "shards",
        tokenizer_json=start.tokenizer_json,
        config=PrepareConfig(validation_share=0.1),
    )
    return str(folder / "shards")


def corpus(**fields) -> Corpus:
    usual = {"tokens_per_batch": 2048, "max_sequence": 512, "num_validation": 2}
    return Corpus(**(usual | fields))


def test_text_and_tasks_have_their_shares_and_clusters(start, text):
    mixed = corpus(text=(text,), tasks=("s3_tracking", "modular_chain"), task_share=0.25)
    batch, place = next(mixed.batches(start)(None, rank=0, num_ranks=1))
    shares = [(batch.part_T == part).float().mean().item() for part in range(3)]
    assert shares == pytest.approx([0.75, 0.125, 0.125], abs=0.05)
    named = [CLUSTERS[int(batch.cluster_T[batch.part_T == part][0])] for part in range(3)]
    assert named == ["creative", "spatial", "symbolic"]
    following, _ = next(mixed.batches(start)(place, rank=0, num_ranks=1))
    assert not (following.token_T == batch.token_T).all()


def test_tasks_can_be_chats_of_which_the_answer_is_learned(start):
    asked = corpus(tasks=("addition",), chat=True)
    batch, _ = next(asked.batches(start)(None, rank=0, num_ranks=1))
    tokenizer = Tokenizer(start.tokenizer_json)
    first = slice(*batch.bounds_S1[:2])
    text = tokenizer.decode(batch.token_T[first].tolist(), skip_special=False)
    learned = batch.target_T[first][batch.target_T[first] != IGNORED].tolist()
    question = find("addition").instruction
    assert question in text and "assistant" in text
    assert tokenizer.decode(learned[:-1]) in text and learned[-1] in start.eos_ids
    assert len(learned) < len(batch.token_T[first]) / 3


def test_validation_is_held_out_and_the_same_each_time(start, text):
    batches = corpus(text=(text,), tasks=("modular_chain",)).batches(start)
    first, again = (list(batches.validation()) for _ in range(2))
    assert len(first) == 2
    assert all((a.token_T == b.token_T).all() for a, b in zip(first, again, strict=True))
    train_batch, _ = next(batches(None, rank=0, num_ranks=1))
    seen, held_out = (
        {tuple(b.token_T[s:e].tolist()) for s, e in zip(b.bounds_S1, b.bounds_S1[1:], strict=False)}
        for b in (train_batch, first[0])
    )
    assert not {document for document in seen & held_out if len(document) > 8}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tasks": ()}, "a folder of prepared text or a task"),
        ({"task_share": 1.0}, "task_share must lie in"),
        ({"num_levels": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        Corpus(**fields)


def test_no_start_and_no_text_are_told(start, tmp_path):
    with pytest.raises(ConfigError, match="give the run a start"):
        corpus().batches(None)
    with pytest.raises(DataError, match="nowhere"):
        corpus(text=(str(tmp_path / "nowhere"),)).batches(start)
