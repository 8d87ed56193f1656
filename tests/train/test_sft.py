"""Fine-tuning on chats: what is learned, what is held out, and an answer through the engine."""

import json
from pathlib import Path

import pytest
import torch

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.errors import ConfigError, DataError
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.data.prepare import PrepareConfig, prepare
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.reference import chat_format
from heddle.train.run import Run, start
from heddle.train.sft import ChatTuning
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from tests.engine.collect import ask
from tests.tiny import CHATML, save_tiny, tiny_tokenizer

CHATS = {
    "What lifts the warp?": "The heddle lifts it.",
    "How much is 17 + 25?": "It is 42.",
    "Name a colour.": "Indigo, of course.",
}


@pytest.fixture
def chats(tmp_path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
        for asked, told in CHATS.items()
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tuning(chats: Path, **changes) -> ChatTuning:
    fields = {"chats": (chats,), "held_out_share": 0.0, "tokens_per_batch": 128}
    return ChatTuning(**(fields | changes))


def batch(objective: ChatTuning, base: Path):
    stage = objective.stage(open_checkpoint(base))
    return next(stage.batches(None, rank=0, num_ranks=1))[0]


def answers(found) -> set[str]:
    """Return what a batch teaches, cut after each turn."""
    learned = [int(token) for token in found.target_T if token != IGNORED]
    text = Tokenizer(tiny_tokenizer().to_str()).decode(learned, skip_special=False)
    return {piece for piece in text.split("<|im_end|>") if piece}


def test_only_answers_and_their_end_are_learned(tmp_path, chats):
    found = batch(tuning(chats, tokens_per_batch=512), save_tiny(tmp_path / "base"))
    assert answers(found) == set(CHATS.values())
    assert found.target_T[found.target_T == 2].numel() >= len(CHATS)


def test_a_few_chats_are_learned_and_told_by_the_engine(tmp_path, chats):
    run = Run(
        folder=tmp_path / "run",
        start=str(save_tiny(tmp_path / "base")),
        objective=tuning(chats),
        optimiser=OptimiserConfig(learning_rate=3e-3, weight_decay=0.0),
        fit=FitConfig(num_steps=60),
    )
    assert start(run, resume=False).figures["cross_entropy"] < 0.1
    engine = Engine.load(run.folder, EngineConfig(threads=1))
    try:
        for asked, told in CHATS.items():
            assert answer_text(engine, asked) == told
    finally:
        engine.close()


def answer_text(engine: Engine, asked: str) -> str:
    chat = chat_format(engine.checkpoint)
    prompt = chat.render([{"role": "user", "content": asked}])
    told = ask(engine, prompt, 32, stop_ids=frozenset(engine.checkpoint.eos_ids))
    return Tokenizer(engine.checkpoint.tokenizer_json).decode(told.tokens)


def test_a_delta_learns_with_its_base_frozen(tmp_path, chats):
    delta = upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    run = Run(
        folder=tmp_path / "run",
        start=str(delta.path),
        trains=("*.experts.*", "gate.*", "think.*"),
        objective=tuning(chats),
        optimiser=OptimiserConfig(learning_rate=3e-3, weight_decay=0.0),
        fit=FitConfig(num_steps=60),
    )
    assert start(run, resume=False).figures["cross_entropy"] < 0.5
    found = open_checkpoint(run.folder)
    assert found.base is not None and found.base.supplies == delta.base.supplies


def test_tasks_are_written_as_chats(tmp_path, chats):
    objective = tuning(chats, tasks=("copy",), task_share=0.5, tokens_per_batch=512)
    found = batch(objective, save_tiny(tmp_path / "base"))
    assert answers(found) > set(CHATS.values())
    assert set(found.part_T.tolist()) == {0, 1}
    text = Tokenizer(tiny_tokenizer().to_str()).decode(found.token_T.tolist(), skip_special=False)
    assert "<|im_start|>user\nAnswer with" in text


def test_prepared_chats_are_the_same_documents(tmp_path, chats):
    config = PrepareConfig(kind="chat", template=CHATML, validation_share=0.0)
    base = save_tiny(tmp_path / "base")
    tokenizer = open_checkpoint(base).tokenizer_json
    prepare([chats], tmp_path / "shards", tokenizer_json=tokenizer, config=config)
    found = batch(tuning(tmp_path / "shards", tokens_per_batch=512), base)
    assert answers(found) == set(CHATS.values())


def test_what_is_held_out_is_not_learned(tmp_path):
    rows = [{"prompt": f"Say number {n}.", "answer": str(n)} for n in range(40)]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    objective = tuning(chats, held_out_share=0.3, tokens_per_batch=2048)
    stage = objective.stage(open_checkpoint(save_tiny(tmp_path / "base")))
    tokenizer = Tokenizer(tiny_tokenizer().to_str())

    def asked(found) -> set[str]:
        turns = tokenizer.decode(found.token_T.tolist(), skip_special=False).split("<|im_end|>")
        return {turn.partition("user")[2] for turn in turns if "user" in turn}

    learned = asked(next(stage.batches(None, rank=0, num_ranks=1))[0])
    held_out = set().union(*(asked(found) for found in stage.validation()))
    assert learned and held_out and not learned & held_out
    again = [found.token_T for found in stage.validation()]
    assert all(torch.equal(a, b.token_T) for a, b in zip(again, stage.validation(), strict=True))


def test_what_is_wrong_is_said(tmp_path, chats):
    base = save_tiny(tmp_path / "base")
    with pytest.raises(ConfigError, match="--set start"):
        tuning(chats).stage(None)
    with pytest.raises(ConfigError, match="names no file"):
        ChatTuning(chats=())
    with pytest.raises(DataError, match=r"cannot read .*nothing\.jsonl"):
        batch(tuning(tmp_path / "nothing.jsonl"), base)
    chats.write_text('{"messages": [{"role": "user", "content": "Well?"}]}\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 1: messages hold no turn of the assistant"):
        batch(tuning(chats), base)
    chats.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no chat to learn from"):
        batch(tuning(chats), base)
