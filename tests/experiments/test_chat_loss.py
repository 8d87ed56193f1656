import json
import math
from pathlib import Path

import pytest
import torch

from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.teacher import frozen
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from recipes.experiments.chat_loss import chat_loss, first_chats, main
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat_loss")
    base = save_tiny(folder / "base")
    upcycle(str(base), folder / "up", has_fabric=False, max_loops=3)
    return open_checkpoint(base), open_checkpoint(folder / "up")


@pytest.fixture
def file(tmp_path) -> Path:
    rows = [{"prompt": f"What is {n}?", "answer": f"{n} " * n} for n in range(1, 12)]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_the_first_short_chats_are_taken(models, file):
    base, _ = models
    every = first_chats(file, base, count=11, max_tokens=10_000)
    assert len(every) == 11
    limit = len(every[4].token_N)
    some = first_chats(file, base, count=3, max_tokens=limit)
    assert [chat.token_N.tolist() for chat in some] == [c.token_N.tolist() for c in every[:3]]
    assert len(first_chats(file, base, count=11, max_tokens=limit)) < 11
    learned = every[2].target_N[every[2].target_N != IGNORED].tolist()
    assert Tokenizer(base.tokenizer_json).decode(learned[:-1]).strip() == "3 3 3"


def test_the_loss_is_that_of_the_answers(models, file):
    base, up = models
    chats = first_chats(file, base, count=11, max_tokens=10_000)
    plain, thinking = frozen(base), frozen(up)
    found = chat_loss(plain, chats, loops=1)
    alone = [chat_loss(plain, [chat], loops=1) for chat in chats]
    num = sum(each.num_tokens for each in alone)
    assert found.num_tokens == num and found.loops == 1
    assert math.isclose(
        found.loss, sum(each.loss * each.num_tokens for each in alone) / num, rel_tol=1e-5
    )
    assert chat_loss(thinking, chats, loops=1) == found
    deep = chat_loss(thinking, chats, loops=3)
    assert deep.loops == 3 and deep.loss != found.loss


def test_tokens_may_choose_their_loops(models, file):
    chats = first_chats(file, models[1], count=4, max_tokens=10_000)
    model = frozen(models[1])
    with torch.no_grad():
        model.think.read.bias.fill_(-1e4)  # no token is hard
    assert chat_loss(model, chats, loops=3, is_automatic=True).loops == 1


def test_a_line_for_each_depth_is_printed(models, file, capsys):
    base, up = models
    main(file, [str(base.path), str(up.path)], count=3, max_tokens=10_000, loops=2)
    lines = capsys.readouterr().out.splitlines()
    told = [line.removeprefix(str(up.path.parent)).split(":")[0] for line in lines]
    assert told == ["/base, 1 loop", "/up, 1 loop", "/up, auto", "/up, 3 loops", "/up, 2 loops"]
    assert lines[-1].endswith("2.00 loops a token")
