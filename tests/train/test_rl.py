"""GRPO: what it computes, that it lifts a reward, that it resumes, and what it refuses."""

import json
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from string import ascii_lowercase

import pytest
import torch

from heddle.errors import ConfigError, DataError
from heddle.model.presets import adapted
from heddle.model.transformer import Transformer
from heddle.tasks.table import TASKS, find
from heddle.tasks.task import Example, Task, held_out
from heddle.text.tokenizer import Tokenizer
from heddle.train.answers import log_probs
from heddle.train.data.questions import Questions
from heddle.train.data.task_documents import Curriculum
from heddle.train.data.vocabulary import BYTES_ONLY, train_tokenizer
from heddle.train.fit import FitConfig, fit
from heddle.train.initial import initialise
from heddle.train.optim import OptimiserConfig
from heddle.train.preference import DpoConfig, Preference
from heddle.train.rl import (
    Attempt,
    GrpoConfig,
    VerifiableRewards,
    advantages,
    attempt,
    clipped_loss,
    grpo,
    grpo_loss,
)
from heddle.train.run import Run, start
from heddle.train.stage import Stage
from heddle.weights.checkpoint import open_checkpoint
from tests.tiny import save_tiny, tiny_config
from tests.train.processes import ROOT
from tests.train.small import assert_same_bits, newest

HALVES = ascii_lowercase[:13], ascii_lowercase[13:]
GRPO = GrpoConfig(num_prompts=4, group_size=8, max_tokens=10, loops=2)


def draw(rng: Random, difficulty: int) -> Example:
    half = rng.randrange(2)
    prompt = "".join(rng.choices(HALVES[half], k=3)) + "="
    return Example(prompt=prompt, answer=HALVES[half][0], difficulty=1, extra={"half": half})


def share_of_the_half(example: Example, reply: str) -> float:
    return sum(letter in HALVES[example.extra["half"]] for letter in reply) / max(1, len(reply))


TOY = Task(
    name="halves",
    cluster=None,
    instruction="",
    needs="nothing",
    difficulties=range(1, 2),
    source=held_out("halves", draw),
    grade=share_of_the_half,
)


def questions(task: Task = TOY, *, level: int = 1) -> Questions:
    return Questions(
        task,
        Tokenizer(train_tokenizer(())),
        end_ids=(0,),
        levels=Curriculum(lowest=level, highest=level),
    )


def adaptive_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(adapted(tiny_config(vocab_size=BYTES_ONLY, width=48)))
    initialise(model)
    return model


def figures(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(folder, stage: Stage, *, resume: bool = False, rate: float = 3e-3, **settings):
    optimiser = OptimiserConfig(hidden="adamw", learning_rate=rate, weight_decay=0.0)
    config = FitConfig(**({"num_steps": 4, "num_microbatches": 2} | settings))
    model = adaptive_model()
    result = fit(
        model,
        stage,
        optimiser=optimiser,
        config=config,
        folder=folder,
        resume=resume,
        configuration={},
    )
    return model, result


def answered(config: GrpoConfig = GRPO, model: Transformer | None = None) -> Attempt:
    torch.manual_seed(1)
    asked = questions()
    batch = [asked.question("train", number) for number in range(config.num_prompts)]
    return attempt(model or adaptive_model(), batch, asked, config)


def gradients(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_reward_rises_on_prompts_never_seen(tmp_path):
    config = replace(GRPO, group_size=16, num_validation=2)
    _, result = train(
        tmp_path, grpo(questions(), config), rate=0.01, num_steps=50, num_microbatches=1
    )
    rewards = [line["reward"] for line in figures(tmp_path)]
    assert sum(rewards[:5]) / 5 < 0.2
    assert sum(rewards[-5:]) / 5 > 0.85
    assert result.figures["validation_loss"] < 0.2


def test_answers_are_read_as_they_were_drawn(tmp_path):
    train(tmp_path, grpo(questions(), replace(GRPO, loops=4, auto=True)), num_steps=2)
    for line in figures(tmp_path):
        assert line["ratio_error"] < 1e-5 and line["clipped"] == 0
        assert 1 <= line["mean_loops"] <= 4


def test_the_first_gradient_is_the_policy_gradient():
    model = adaptive_model()
    trial = answered(model=model)
    grpo_loss(model, trial, GRPO).mean.backward()
    ours = gradients(model)
    model.zero_grad()
    answers = trial.rollouts.answers
    advantage_S = advantages(trial.reward_S.view(4, 8)).flatten()
    log_prob_N, _ = log_probs(model, answers)
    (-advantage_S[answers.answer_N] * log_prob_N).mean().backward()
    theirs = gradients(model)
    assert ours.keys() == theirs.keys() and any(gradient.any() for gradient in ours.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-6, rtol=1e-3, msg=name)


def test_a_group_of_equal_rewards_teaches_nothing():
    model = adaptive_model()
    trial = answered(model=model)
    equal = trial._replace(reward_S=torch.full_like(trial.reward_S, 0.1))
    loss = grpo_loss(model, equal, GRPO)
    loss.mean.backward()
    assert loss.metrics["mixed_groups"] == 0
    assert gradients(model)
    assert not any(gradient.any() for gradient in gradients(model).values())


def test_advantages_compare_an_answer_with_its_group():
    reward_SG = torch.tensor([[1.0, 0, 0, 1], [0.3, 0.3, 0.3, 0.3], [0, 0, 0, 1]])
    expected = torch.tensor([[1, -1, -1, 1], [0, 0, 0, 0], [-(3**-0.5)] * 3 + [3**0.5]])
    torch.testing.assert_close(advantages(reward_SG), expected)


def test_a_ratio_beyond_the_clip_earns_nothing_and_still_costs():
    ratio_N = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage_N = torch.tensor([1.0, -1, 1, -1, 1])
    loss_N = clipped_loss(ratio_N, advantage_N, GRPO)
    torch.testing.assert_close(loss_N, torch.tensor([-1.28, 1.5, -0.5, 0.8, -1.1]))
    loss_N.sum().backward()
    assert ratio_N.grad.tolist() == [0, 1, -1, 0, -1]


def test_the_divergence_is_zero_at_the_start_and_pulls_back_later():
    config = replace(GRPO, kl_weight=0.5)
    model, reference = adaptive_model(), adaptive_model().requires_grad_(False)
    trial = answered(config, model)
    at_start = grpo_loss(model, trial, config, reference=reference)
    assert at_start.metrics["divergence"].abs() < 1e-6
    with torch.no_grad():
        model.embed.weight += 0.02 * torch.randn_like(model.embed.weight)
    equal = trial._replace(reward_S=torch.ones_like(trial.reward_S))
    before = grpo_loss(model, equal, config, reference=reference)
    before.mean.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.005 * parameter.grad
    after = grpo_loss(model, equal, config, reference=reference)
    assert before.metrics["divergence"] > 1e-3
    assert after.metrics["divergence"] < before.metrics["divergence"]
    assert not gradients(reference)


def test_n_and_n_steps_equal_2n_bit_for_bit(tmp_path):
    stage = grpo(questions(), replace(GRPO, auto=True, loops=3))
    train(tmp_path / "whole", stage, num_steps=4)
    train(tmp_path / "halved", stage, num_steps=2)
    train(tmp_path / "halved", stage, num_steps=4, resume=True)
    assert_same_bits(newest(tmp_path / "whole"), newest(tmp_path / "halved"))


def test_other_questions_are_refused_on_resume(tmp_path):
    train(tmp_path, grpo(questions(), GRPO), num_steps=1)
    with pytest.raises(DataError, match="num_prompts was 4 and is 2"):
        train(tmp_path, grpo(questions(), replace(GRPO, num_prompts=2)), resume=True)


def test_ranks_share_the_questions_of_one():
    batches = grpo(questions(), GRPO).batches
    alone = batches(None, rank=0, num_ranks=1)
    ranks = [batches(None, rank=rank, num_ranks=2) for rank in (0, 1)]
    for _ in range(3):
        (first, place), (second, same_place) = (next(rank) for rank in ranks)
        assert [first, second] == [next(alone)[0], (last := next(alone))[0]]
        assert place == same_place == last[1]


def test_the_objective_takes_tokenizer_template_and_reference_from_the_start(tmp_path):
    pytest.importorskip("reasoning_gym")
    run = Run(
        folder=tmp_path / "run",
        start=str(save_tiny(tmp_path / "start")),
        objective=VerifiableRewards(
            task="reasoning_gym:leg_counting",
            levels=Curriculum(lowest=1, highest=1),
            chat=True,
            grpo=GrpoConfig(num_prompts=1, group_size=2, max_tokens=256, kl_weight=0.1),
        ),
        optimiser=OptimiserConfig(),
        fit=FitConfig(num_steps=1),
    )
    result = start(run, resume=False)
    assert result.figures["divergence"] < 1e-6
    assert 0 <= result.figures["reward"] <= 1
    assert open_checkpoint(tmp_path / "run" / "model").config == tiny_config()


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        (replace(GRPO, max_tokens=4), DataError, "prompt is 4 tokens long, and max_tokens is 4"),
        (replace(GRPO, loops=33), ConfigError, "33 loops are asked of a network that takes 32"),
    ],
)
def test_what_cannot_be_drawn_is_refused(config, error, told):
    with pytest.raises(error, match=told):
        answered(config)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"num_prompts": 0}, "num_prompts must be at least 1"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
        ({"loops": 0}, "loops must be at least 1"),
        ({"kl_weight": -1.0}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        GrpoConfig(**settings)


def test_levels_and_starts_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="difficulty of addition must be from 1 to 32, not 99"):
        questions(TASKS["addition"], level=99)
    objective = VerifiableRewards(task="addition", levels=Curriculum(lowest=1, highest=1))
    with pytest.raises(ConfigError, match="--set start="):
        objective.stage(None)


def test_a_file_of_questions_begins_anew_and_needs_rows_in_the_split(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [json.dumps({"prompt": f"{n}+1=", "answer": n + 1}) for n in range(40)]
    path.write_text("\n".join(rows), encoding="utf-8")
    task = find(str(path))
    asked = questions(task, level=0)
    size = task.num_examples["train"]
    epochs = [
        [asked.question("train", epoch * size + n).example.prompt for n in range(size)]
        for epoch in range(2)
    ]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
    path.write_text(rows[0], encoding="utf-8")
    task = find(str(path))
    empty = next(split for split, size in task.num_examples.items() if not size)
    with pytest.raises(DataError, match=f"sums has no {empty} rows"):
        questions(task, level=0).question(empty, 0)


@pytest.mark.parametrize(
    ("prefix", "settings"),
    [
        ("objective", VerifiableRewards),
        ("objective.grpo", GrpoConfig),
        ("objective.levels", Curriculum),
        ("objective", Preference),
        ("objective.dpo", DpoConfig),
    ],
)
def test_every_setting_is_documented(prefix, settings):
    told = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for setting in fields(settings):
        if setting.name not in ("grpo", "dpo", "levels"):
            assert f"`{prefix}.{setting.name}`" in told, setting.name
