"""A teacher's own text: its strata, its resumption, its refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from heddle.errors import ConfigError, DataError
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.shards import Shards
from heddle.train.self_text import SelfText, TextConfig
from heddle.train.strata import Asker, open_strata, task_levels, task_strata
from heddle.train.teacher import frozen
from heddle.weights.checkpoint import open_checkpoint

CONFIG = TextConfig(num_tokens=5000, max_tokens=80, texts_per_round=24, validation_share=0.2)


@pytest.fixture(scope="module")
def checkpoint(tiny_folder):
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="module")
def network(checkpoint):
    return frozen(checkpoint)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_interrupted_text_goes_on_and_is_the_same(checkpoint, network, tmp_path):
    class Enough(Exception):
        pass

    def stop_after(limit: int):
        def tell(num_tokens: int) -> None:
            if num_tokens >= limit:
                raise Enough

        return tell

    whole = SelfText(tmp_path / "whole", checkpoint, CONFIG, loops=1)
    whole.write(network, tell=lambda _: None)
    parts = SelfText(tmp_path / "parts", checkpoint, CONFIG, loops=1)
    with pytest.raises(Enough):
        parts.write(network, tell=stop_after(1))
    assert not parts.folder.exists()
    told = []
    parts.write(network, tell=told.append)
    assert len(told) > 1 and told == sorted(told) and told[-1] >= CONFIG.num_tokens
    assert contents(whole.folder) == contents(parts.folder)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [parts.folder.name]


def test_texts_are_different_and_of_every_cluster(checkpoint, network, tmp_path):
    text = SelfText(tmp_path, checkpoint, CONFIG, loops=1)
    text.write(network, tell=lambda _: None)
    sides = [Shards(text.folder / side) for side in ("train", "validation")]
    documents = [side.read(i) for side in sides for i in range(side.num_documents)]
    texts = [tuple(document.token_N) for document in documents]
    assert len(texts) == len(set(texts)) and max(map(len, texts)) <= CONFIG.max_tokens
    assert {document.cluster for document in documents} == {-1, 0, 1, 2, 3, 4}


def test_strata_begin_as_they_say(checkpoint):
    tokenizer = Tokenizer(checkpoint.tokenizer_json)
    strata = {stratum.name: stratum for stratum in open_strata(checkpoint, tokenizer, seed=0)}
    assert len(strata) == 11
    said = tokenizer.decode(strata["question, symbolic"].prompt(0), skip_special=False)
    assert said.startswith("<|im_start|>user\n") and said.endswith("<|im_start|>assistant\n")
    assert (
        tokenizer.decode(strata["opening, factual"].prompt(8)) == "The river Danube flows through"
    )
    starts = {tuple(strata["nothing"].prompt(index)) for index in range(20)}
    assert len(starts) > 10
    [stratum] = task_strata(("copy:3-4",), checkpoint, tokenizer, seed=0)
    asked = [tokenizer.decode(stratum.prompt(index)) for index in range(2)]
    assert all("copy " in text and "=" in text for text in asked)


def test_bare_prompts_begin_as_serving_begins_them(checkpoint):
    tokenizer = Tokenizer(checkpoint.tokenizer_json)
    bare = replace(checkpoint, chat_template=None, bos_id=1, add_bos=True)
    assert Asker(bare, tokenizer).question("copy") == [1, *tokenizer.encode("copy")]
    assert Asker(replace(bare, add_bos=False), tokenizer).question("copy")[0] != 1


def test_a_teacher_can_be_left_to_begin_by_itself(checkpoint, network, tmp_path):
    begun = replace(checkpoint, bos_id=1)
    config = replace(CONFIG, openings=False, num_tokens=500)
    text = SelfText(tmp_path, begun, config, loops=1)
    text.write(network, tell=lambda _: None)
    train = Shards(text.folder / "train")
    documents = [train.read(index) for index in range(train.num_documents)]
    assert {document.cluster for document in documents} == {-1}
    assert {document.token_N[0] for document in documents} == {1}


def test_a_teacher_that_repeats_itself_is_found_out(checkpoint, network, tmp_path):
    bare = replace(checkpoint, chat_template=None)
    config = TextConfig(
        num_tokens=10**6,
        max_tokens=12,
        texts_per_round=64,
        temperatures=(1e-6,),
        tasks=("addition:1-1",),
    )
    with pytest.raises(DataError, match="repeats itself: .* different texts of"):
        SelfText(tmp_path, bare, config, loops=1).write(network, tell=lambda _: None)


def test_prompts_must_leave_room(checkpoint, tmp_path):
    config = TextConfig(max_tokens=4)
    with pytest.raises(ConfigError, match=r"max_tokens \(4\) leaves no room for an answer"):
        SelfText(tmp_path, checkpoint, config, loops=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("copi", "did you mean copy"),
        ("copy:2-4", "from 3 to 1024, not 2-4"),
        ("copy:5-4", "from 3 to 1024, not 5-4"),
    ],
)
def test_tasks_that_do_not_exist_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        TextConfig(tasks=(text,))


def test_tasks_are_read_with_and_without_difficulties():
    assert task_levels("copy:3-5") == ("copy", range(3, 6))
    assert task_levels("modular_chain").difficulties == range(2, 129)
