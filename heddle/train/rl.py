"""Reinforcement learning from verifiable rewards (GRPO). Its stage is run by `fit`.

    A_i = (r_i - mean(r)) / std(r)                                 within the answers to one prompt
    L = - 1/N Σ_i Σ_t min(ρ A_i, clip(ρ, 1 - ε_low, 1 + ε_high) A_i) + β KL,  ρ = p(token) / p_drawn
    KL = q/p - log(q/p) - 1                                        q: the reference model's

A micro-batch is a few prompts. Its loss lets the model as it is answer each of them several times,
has the task score the answers, and reads them again with the loops and experts of the drawing.
Every answer is learned from once. Sources: GRPO, DeepSeekMath (arXiv:2402.03300, section 4.1); all
tokens of the batch weigh the same, and ε_high may be the larger, DAPO (arXiv:2503.14476).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heddle.errors import ConfigError, DataError
from heddle.model.transformer import Transformer
from heddle.tasks.table import find
from heddle.tasks.task import Split
from heddle.text.tokenizer import Tokenizer
from heddle.train import dist
from heddle.train.answers import log_probs
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.questions import Question, Questions
from heddle.train.data.task_documents import Curriculum
from heddle.train.depth import check_depth
from heddle.train.forward import batch_flops, exact_depth
from heddle.train.reference import chat_format, check_context, needs_start, reference_log_probs
from heddle.train.rollout import Rollouts, roll_out
from heddle.train.stage import Loss, Stage
from heddle.train.teacher import frozen
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """How answers are drawn and learned from.

    Attributes:
        num_prompts: of a micro-batch.
        group_size: answers to each of them.
        max_tokens: of a prompt and an answer together.
        loops: through the thinking block for each token; a bound if `auto`.
        auto: whether tokens decide on their loops themselves.
        clip_low, clip_high: how far below and above 1 a ratio still counts.
        kl_weight: of the divergence from the reference model; 0 needs none.
        num_validation: micro-batches of held-out prompts; 0 is no validation.
    """

    num_prompts: int = 8
    group_size: int = 8
    max_tokens: int = 256
    loops: int = 1
    auto: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_weight: float = 0.0
    num_validation: int = 0

    def __post_init__(self):
        if self.group_size < 2:
            raise ConfigError(
                f"group_size must be at least 2, not {self.group_size}: an answer is compared with "
                "the others to its prompt"
            )
        for name, least in (("num_prompts", 1), ("max_tokens", 2), ("loops", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if min(self.clip_low, self.clip_high, self.kl_weight, self.num_validation) < 0:
            raise ConfigError(
                "clip_low, clip_high, kl_weight and num_validation must not be negative"
            )


@dataclass(frozen=True, kw_only=True)
class VerifiableRewards:
    """The objective: answers that a task finds right.

    Attributes:
        task: as `heddle.tasks.table.find` reads it.
        levels: the difficulties to draw.
        chat: whether prompts are a chat's first turn, or bare as the task writes them.
    """

    task: str
    levels: Curriculum
    chat: bool = False
    seed: int = 0
    grpo: GrpoConfig = GrpoConfig()

    def stage(self, start: Checkpoint | None) -> Stage:
        """Find the task, for the start's tokenizer."""
        start = needs_start(start, "training on verifiable rewards")
        check_context(start, self.grpo.max_tokens)
        questions = Questions(
            find(self.task),
            Tokenizer(start.tokenizer_json),
            end_ids=start.eos_ids,
            levels=self.levels,
            seed=self.seed,
            chat=chat_format(start) if self.chat else None,
        )
        reference = frozen(start) if self.grpo.kl_weight else None
        return grpo(questions, self.grpo, reference=reference)


def grpo(
    questions: Questions, config: GrpoConfig, *, reference: Transformer | None = None
) -> Stage:
    """Return the stage; with `kl_weight` it needs a reference."""
    assert (reference is not None) == (config.kl_weight > 0), "the KL term alone reads a reference"

    def batch(split: Split, number: int) -> list[Question]:
        first = number * config.num_prompts
        return [questions.question(split, first + i) for i in range(config.num_prompts)]

    def loss(model: Any, batch: list[Question], progress: float) -> Loss:
        if dist.is_sharded(dict(model.named_parameters())):
            raise ConfigError(
                "verifiable rewards need fit.parallel=ddp: the answers that processes draw differ "
                "in length, and a sharded model computes in step"
            )
        trial = attempt(model, batch, questions, config)
        if progress == 1:
            return _shortfall(trial)
        return grpo_loss(model, trial, config, reference=reference)

    def validation() -> Iterator[list[Question]]:
        return (batch("validation", number) for number in range(config.num_validation))

    identity = questions.identity() | {"num_prompts": config.num_prompts}
    return Stage(
        batches=numbered_batches(lambda number: batch("train", number), identity),
        loss=loss,
        validation=validation if config.num_validation else None,
        uses_every_parameter=False,
    )


class Attempt(NamedTuple):
    """Answers to some questions, neighbours to the same one, and their scores from 0 to 1."""

    rollouts: Rollouts
    reward_S: Tensor


def attempt(
    model: Transformer, batch: Sequence[Question], questions: Questions, config: GrpoConfig
) -> Attempt:
    """Let the model answer each question `group_size` times, and score the answers.

    Raises DataError for a prompt that leaves no room for an answer, ConfigError for more loops than
    the network takes.
    """
    asked = [question for question in batch for _ in range(config.group_size)]
    longest = max(len(question.prompt) for question in batch)
    if longest >= config.max_tokens:
        raise DataError(
            f"a prompt is {longest} tokens long, and max_tokens is {config.max_tokens}: raise it, "
            "or lower the task's difficulty"
        )
    check_depth(model.config, exact_depth(config.loops, 1))
    rollouts = roll_out(
        model,
        [question.prompt for question in asked],
        end_ids=questions.end_ids,
        max_tokens=config.max_tokens,
        loops=config.loops,
        auto=config.auto,
    )
    rewards = [
        questions.score(question, text.tokens[text.num_prompt :])
        for question, text in zip(asked, rollouts.texts, strict=True)
    ]
    return Attempt(rollouts, torch.tensor(rewards, device=rollouts.log_prob_N.device))


def grpo_loss(
    model: Transformer, trial: Attempt, config: GrpoConfig, *, reference: Transformer | None = None
) -> Loss:
    """Return the mean loss of the answers' tokens.

    `clipped` is the share of tokens whose ratio is out of bounds, `ratio_error` the mean distance
    of the ratio from 1: with one step an answer, what drawing and reading compute differently.
    """
    answers, drawn_N, is_ended_S = trial.rollouts[1:]
    advantage_S = advantages(trial.reward_S.view(-1, config.group_size)).flatten()
    log_prob_N, trace = log_probs(model, answers)
    ratio_N = (log_prob_N - drawn_N).exp()
    loss_N = clipped_loss(ratio_N, advantage_S[answers.answer_N], config)
    work = batch_flops(model.config, answers.packed, trace)
    flops = work + work / 3  # a forward more, to draw
    metrics = {}
    if reference is not None:
        apart_N = reference_log_probs(reference, answers, model) - log_prob_N
        divergence_N = apart_N.exp() - apart_N - 1
        loss_N = loss_N + config.kl_weight * divergence_N
        metrics["divergence"] = divergence_N.detach().mean()
        flops += work / 3
    is_out_N = (ratio_N < 1 - config.clip_low) | (ratio_N > 1 + config.clip_high)
    metrics |= {
        "reward": trial.reward_S.mean(),
        "mixed_groups": (advantage_S.view(-1, config.group_size) != 0).any(-1).float().mean(),
        "answer_tokens": answers.sums(torch.ones_like(drawn_N)).mean(),
        "ended": is_ended_S.float().mean(),
        "entropy": -drawn_N.mean(),
        "clipped": is_out_N.float().mean(),
        "ratio_error": (ratio_N.detach() - 1).abs().mean(),
    }
    if answers.packed.depth is not None:
        metrics["mean_loops"] = answers.packed.depth.max_T.float().mean()
    return Loss(
        mean=loss_N.mean(),
        weight=loss_N.new_tensor(len(loss_N)),
        num_tokens=len(answers.packed.token_T),
        flops=flops,
        metrics=metrics,
    )


def advantages(reward_SG: Tensor) -> Tensor:
    """Return how much better than its group's mean each answer is, in standard deviations."""
    deviation, mean = torch.std_mean(reward_SG, dim=1, keepdim=True, correction=0)
    is_mixed = reward_SG.amax(1, keepdim=True) > reward_SG.amin(1, keepdim=True)
    return torch.where(is_mixed, (reward_SG - mean) / deviation.clamp(min=1e-6), 0.0)


def clipped_loss(ratio_N: Tensor, advantage_N: Tensor, config: GrpoConfig) -> Tensor:
    """Return each token's loss; beyond the clip a ratio earns nothing more."""
    bounded_N = ratio_N.clamp(1 - config.clip_low, 1 + config.clip_high)
    return -torch.minimum(ratio_N * advantage_N, bounded_N * advantage_N)


def _shortfall(trial: Attempt) -> Loss:
    """Return as the validation's loss how far the mean score is from 1."""
    return Loss(
        mean=1 - trial.reward_S.mean(),
        weight=trial.reward_S.new_tensor(len(trial.reward_S)),
        num_tokens=len(trial.rollouts.answers.packed.token_T),
        flops=0.0,
        metrics={},
    )
