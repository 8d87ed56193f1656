"""DPO: what it computes, that it prefers what people prefer, that it resumes, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

from heddle.errors import ConfigError, DataError
from heddle.model.batch import pack
from heddle.model.presets import adapted
from heddle.model.transformer import Transformer
from heddle.train.data.pairs import Pair, read_pairs
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.optim import OptimiserConfig
from heddle.train.preference import DpoConfig, Preference, dpo, dpo_loss
from heddle.train.reference import chat_format
from heddle.train.run import Run, start
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from tests.tiny import save_tiny, tiny_config, tiny_model
from tests.train.small import assert_same_bits, newest

ROWS = [
    {
        "prompt": f"How much is {n} + 1?",
        "chosen": f"It is {n + 1}.",
        "rejected": f"{n} or so, well.",
    }
    for n in range(12)
]
DPO = DpoConfig(num_pairs=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    return open_checkpoint(save_tiny(tmp_path_factory.mktemp("tiny") / "model"))


def read(path: Path, rows: list, checkpoint: Checkpoint, *, max_tokens: int = 100) -> list[Pair]:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_pairs(
        path, chat_format(checkpoint), end_ids=checkpoint.eos_ids, max_tokens=max_tokens
    )


@pytest.fixture
def pairs(tmp_path, checkpoint) -> list[Pair]:
    return read(tmp_path / "pairs.jsonl", ROWS, checkpoint)


def adaptive_model() -> Transformer:
    return tiny_model(adapted(tiny_config()))


def train(folder: Path, stage: Stage, *, resume: bool = False, **settings) -> Result:
    return fit(
        adaptive_model(),
        stage,
        optimiser=OptimiserConfig(hidden="adamw", learning_rate=1e-3, weight_decay=0.0),
        config=FitConfig(**({"num_microbatches": 1} | settings)),
        folder=folder,
        resume=resume,
        configuration={},
    )


def test_only_the_answer_and_its_end_are_scored(pairs, checkpoint):
    chat = chat_format(checkpoint)
    prompt = chat.render([{"role": "user", "content": ROWS[0]["prompt"]}])
    chosen, rejected = pairs[0]
    for answer in (chosen, rejected):
        assert answer.tokens[: answer.num_prompt] == prompt
        assert answer.tokens[-1] in checkpoint.eos_ids
    told = chat._tokenizer.decode(chosen.tokens[chosen.num_prompt :])
    assert told == ROWS[0]["chosen"]


def test_a_prompt_may_be_a_whole_chat(tmp_path, checkpoint):
    asked = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How are you?"},
    ]
    row = {"prompt": asked, "chosen": "Well.", "rejected": "Badly."}
    [(chosen, _)] = read(tmp_path / "chat.jsonl", [row], checkpoint)
    assert chosen.tokens[: chosen.num_prompt] == chat_format(checkpoint).render(asked)


def expected_margins(model: Transformer, reference: Transformer, pairs: list[Pair]) -> list:
    """Return what the paper's formula gives, a sequence at a time, for sums and for means."""

    def gain(answer, *, mean: bool) -> torch.Tensor:
        target = torch.tensor(answer.tokens[1:])
        logs = [
            m(pack([answer.tokens[:-1]])).logits_NV.log_softmax(-1).gather(-1, target[:, None])
            for m in (model, reference)
        ]
        apart = (logs[0] - logs[1])[answer.num_prompt - 1 :]
        return apart.mean() if mean else apart.sum()

    return [
        torch.stack([gain(pair.chosen, mean=m) - gain(pair.rejected, mean=m) for pair in pairs])
        for m in (False, True)
    ]


def test_the_loss_is_that_of_the_paper(pairs):
    model, reference = adaptive_model(), tiny_model(adapted(tiny_config()), seed=1)
    by_sum, by_mean = expected_margins(model, reference, pairs[:4])
    for config, margin in ((DPO, by_sum), (replace(DPO, per_token=True, beta=2.0), by_mean)):
        loss = dpo_loss(model, pairs[:4], config, reference=reference)
        expected = -logsigmoid(config.beta * margin).mean()
        torch.testing.assert_close(loss.mean, expected, atol=1e-4, rtol=1e-4)


def test_at_the_start_nothing_is_preferred(pairs):
    loss = dpo_loss(adaptive_model(), pairs[:4], DPO, reference=adaptive_model())
    torch.testing.assert_close(loss.mean, torch.tensor(2.0).log())


def test_the_preferred_answers_gain_on_the_others(tmp_path, pairs):
    stage = dpo(pairs, replace(DPO, num_validation=4, loops=2), reference=adaptive_model())
    result = train(tmp_path, stage, num_steps=12)
    figures = result.figures
    assert figures["accuracy"] == 1 and figures["chosen_gain"] > figures["rejected_gain"] + 5
    assert figures["loss"] < 0.3 and figures["validation_loss"] < 0.5


def test_n_and_n_steps_equal_2n_bit_for_bit(tmp_path, pairs):
    stage = dpo(pairs, DPO, reference=adaptive_model())
    train(tmp_path / "whole", stage, num_steps=6)
    train(tmp_path / "halved", stage, num_steps=3)
    train(tmp_path / "halved", stage, num_steps=6, resume=True)
    assert_same_bits(newest(tmp_path / "whole"), newest(tmp_path / "halved"))


def test_each_epoch_has_every_pair_once_and_ranks_share_them(pairs):
    batches = dpo(pairs, DPO, reference=adaptive_model()).batches
    alone, second = (batches(None, rank=n, num_ranks=n + 1) for n in (0, 1))
    epochs = [[next(alone)[0] for _ in range(3)] for _ in range(2)]
    flat = [[pair for batch in epoch for pair in batch] for epoch in epochs]
    assert flat[0] != flat[1]
    assert all(sorted(epoch) == sorted(pairs) for epoch in flat)
    assert [next(second)[0] for _ in range(3)] == [epochs[0][1], epochs[1][0], epochs[1][2]]


def test_other_pairs_are_refused_on_resume(tmp_path, pairs):
    train(tmp_path, dpo(pairs, DPO, reference=adaptive_model()), num_steps=1)
    with pytest.raises(DataError, match="data changed since the run was saved: pairs"):
        fewer = dpo(pairs[1:], DPO, reference=adaptive_model())
        train(tmp_path, fewer, num_steps=2, resume=True)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"chosen": "a", "rejected": "b"}, "row 2: prompt must be a text or a list of messages"),
        ({"prompt": "p", "rejected": "b"}, "row 2: chosen is missing or not text"),
        ({"prompt": "p", "chosen": "a", "rejected": 3}, "row 2: rejected is missing or not text"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "a"},
            "row 2: chosen and rejected are the same",
        ),
        ({"prompt": ["p"], "chosen": "a", "rejected": "b"}, "row 2: messages must be a list"),
        (
            {"prompt": [{"role": "nobody", "content": "p"}], "chosen": "a", "rejected": "b"},
            "row 2: .*nobody",
        ),
        (
            {"prompt": "p", "chosen": "a" * 300, "rejected": "b"},
            "row 2: prompt and chosen answer are [0-9]+ tokens, and max_tokens is 100",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path, checkpoint, row, told):
    with pytest.raises(DataError, match=f"pairs.jsonl, {told}"):
        read(tmp_path / "pairs.jsonl", [ROWS[0], row], checkpoint)


def test_a_line_that_is_not_json_is_named(tmp_path, checkpoint):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{oh\n", encoding="utf-8")
    objective = Preference(pairs=path)
    with pytest.raises(DataError, match="pairs.jsonl, line 2: not JSON"):
        objective.stage(checkpoint)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        objective.stage(checkpoint)
    with pytest.raises(DataError, match="cannot read"):
        Preference(pairs=tmp_path / "nothing.jsonl").stage(checkpoint)
    with pytest.raises(ConfigError, match="--set start="):
        objective.stage(None)
    with pytest.raises(ConfigError, match="max_tokens is 1025, and model reads 1024 tokens"):
        replace(objective, max_tokens=1025).stage(checkpoint)


def test_too_few_pairs_and_impossible_settings_are_refused(pairs):
    with pytest.raises(DataError, match="12 pairs, 9 of them held out, do not fill"):
        dpo(pairs, replace(DPO, num_validation=9), reference=adaptive_model())
    for fields in ({"num_pairs": 0}, {"beta": 0.0}, {"loops": 0}, {"num_validation": -1}):
        with pytest.raises(ConfigError):
            DpoConfig(**fields)


def test_a_run_leaves_a_model(tmp_path, checkpoint):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    run = Run(
        folder=tmp_path / "run",
        start=str(checkpoint.path),
        trains=("layers.2.*",),
        objective=Preference(pairs=path, dpo=DPO),
        optimiser=OptimiserConfig(),
        fit=FitConfig(num_steps=2),
    )
    assert start(run, resume=False).step == 2
    assert open_checkpoint(tmp_path / "run" / "model").config == checkpoint.config
