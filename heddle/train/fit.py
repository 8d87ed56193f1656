"""THE training loop, the same for every stage. Called by `run`.

A step reads `num_microbatches` micro-batches, sums their gradients, clips, moves, and may validate
and save. What it does depends on nothing but the checkpoint before it: random numbers are drawn
anew from (seed, step, micro-batch) and data from the cursor. There is no generator's state to save,
and a run that is killed and resumed goes on bit for bit.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from heddle.errors import ConfigError, TrainingError
from heddle.train import dist
from heddle.train.clock import Clock
from heddle.train.interruption import Interruption
from heddle.train.journal import Journal
from heddle.train.metrics import peak_flops
from heddle.train.optim import OptimiserConfig
from heddle.train.parallel import Parallel
from heddle.train.saving import Saves, SavingConfig
from heddle.train.stage import Cursor, Loss, Stage
from heddle.train.trainee import Trainee
from heddle.weights.store import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and in what way to train.

    Attributes:
        num_steps: in all, those before a resume included.
        num_microbatches: of one step, over all ranks; a multiple of their number.
        seed: of the model's first weights and of every random number in the loss.
        dtype: what the network computes in; "auto" is bfloat16 on a GPU, float32 on a CPU.
        parallel: what several ranks do: "ddp" copies the model, "fsdp" shards it, "expert" too,
            but sends tokens to experts' shards rather than gather experts.
        recompute: compute layers again in the backward pass rather than keep what they made.
        compile_layers: compile each layer with torch.compile; loops over layers stay outside.
        max_seconds: save and stop before this much time has passed since the start; 0 is no limit.
        validate_every: steps between validations; 0 is only after the last step.
        max_skipped: a step without finite loss and gradient is skipped: parameters stay, the data
            moves on. This many in a row end the run.
        tensorboard: also write TensorBoard event files.
    """

    num_steps: int
    num_microbatches: int = 1
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    parallel: Parallel = "ddp"
    recompute: bool = False
    compile_layers: bool = False
    max_seconds: float = 0.0
    validate_every: int = 0
    max_skipped: int = 5
    tensorboard: bool = False
    saving: SavingConfig = SavingConfig()

    def __post_init__(self):
        for name in ("num_steps", "num_microbatches", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.seed, self.max_seconds, self.validate_every) < 0:
            raise ConfigError("seed, max_seconds and validate_every must not be negative")


class Result(NamedTuple):
    """How a run ended in this rank; `stopped` says why before its last step, None if it did not."""

    rank: int
    step: int
    stopped: str | None
    figures: Mapping[str, Any]


class Wishes(NamedTuple):
    """What some rank wants to happen after the step."""

    interruption: bool
    end_of_time: bool
    save: bool


class Totals(NamedTuple):
    """One step over all micro-batches and ranks; `loss` and `metrics` are weighted means."""

    loss: float
    weight: float
    num_tokens: int
    flops: float
    metrics: dict[str, Tensor]
    wishes: Wishes


def fit(
    model: nn.Module,
    stage: Stage,
    *,
    optimiser: OptimiserConfig,
    config: FitConfig,
    folder: Path,
    resume: bool = False,
    configuration: Mapping[str, Any],
) -> Result:
    """Train `model`, float32 and on its device, in place; checkpoints and figures go to `folder`.

    `configuration` is saved with each checkpoint. Raises TrainingError when the run cannot go on,
    StorageError when a checkpoint cannot be written, WeightsError when one cannot be read.
    """
    clock = Clock(max_seconds=config.max_seconds)
    rank, num_ranks = dist.world()
    trainee = _trainee(model, stage, optimiser, config)
    saves, peak = Saves(folder, config.saving), peak_flops(trainee.device)
    record = saves.restore(trainee) if resume else None
    step, cursor, figures = (
        (record.step, record.cursor, record.metrics) if record else (0, None, {})
    )
    stream = stage.batches(cursor, rank=rank, num_ranks=num_ranks)
    stopped = None
    with (
        dist.lost_process_is_an_error(),
        _repeatable(trainee.device),
        Interruption() as interruption,
        Journal(
            folder,
            step=step,
            num_steps=config.num_steps,
            tensorboard=config.tensorboard,
            silent=rank > 0,
        ) as journal,
    ):
        clock.start()
        while step < config.num_steps and stopped is None:
            losses, cursor = _learn(trainee, stream, step, config)
            wishes = _wishes(interruption, clock, saves)
            totals = _total(losses, wishes, trainee.device)
            rate = optimiser.rate(step, num_steps=config.num_steps)
            norm = _move(trainee, totals, learning_rate=rate)
            step += 1
            figures = _figures(step, totals, norm, rate, before=figures)
            if norm is None:
                _check(figures, config)
            elif stage.after_step:
                stage.after_step(model, totals.metrics)
            if stage.validation and _is_due(config.validate_every, step, config):
                figures["validation_loss"] = _validate(trainee, stage.validation)
            journal.write(figures | _speed(clock, totals, peak, config.num_steps - step))
            stopped = _reason_to_stop(totals.wishes) if step < config.num_steps else None
            if stopped or totals.wishes.save or _is_due(config.saving.every_steps, step, config):
                saves.save(
                    trainee,
                    Record(step=step, cursor=cursor, configuration=configuration, metrics=figures),
                )
    return Result(rank, step, stopped, figures)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU, let nothing be summed in an order that changes from run to run."""
    before = torch.are_deterministic_algorithms_enabled()
    # Nothing reads such memory.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (untyped)
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _trainee(
    model: nn.Module, stage: Stage, optimiser: OptimiserConfig, config: FitConfig
) -> Trainee:
    num_ranks = dist.world().size
    if config.num_microbatches % num_ranks:
        raise ConfigError(
            f"num_microbatches must be a multiple of the {num_ranks} processes, "
            f"not {config.num_microbatches}"
        )
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if next(model.parameters()).is_cuda else "float32"
    return Trainee(
        model.train(),
        stage,
        optimiser=optimiser,
        dtype=getattr(torch, dtype),
        parallel=config.parallel,
        recompute=config.recompute,
        is_compiled=config.compile_layers,
    )


def _wishes(interruption: Interruption, clock: Clock, saves: Saves) -> Wishes:
    is_late = clock.is_nearly_up(saves.seconds)
    return Wishes(interruption.is_wanted, is_late, saves.is_due())


def _reason_to_stop(wishes: Wishes) -> str | None:
    if wishes.interruption:
        return "interrupted"
    return "max_seconds" if wishes.end_of_time else None


def _is_due(every: int, step: int, config: FitConfig) -> bool:
    return step == config.num_steps or (every > 0 and step % every == 0)


def _learn(
    trainee: Trainee, stream: Iterator[tuple[Any, Cursor]], step: int, config: FitConfig
) -> tuple[list[Loss], Cursor]:
    """Sum the gradients of this rank's share of a step; return its losses and the place after."""
    rank, num_ranks = dist.world()
    losses = []
    cursor: Cursor = {}
    for index in range(rank, config.num_microbatches, num_ranks):
        try:
            batch, cursor = next(stream)
        except StopIteration:
            raise TrainingError(
                f"the data ends in step {step + 1} of {config.num_steps}; lower num_steps or let "
                "the data repeat"
            ) from None
        _seed(config.seed, step, index)
        losses.append(trainee.learn(batch, progress=step / config.num_steps))
    return losses, cursor


def _seed(*path: int) -> None:
    """Make all random numbers that follow a function of `path`."""
    torch.manual_seed(int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> 1))


def _total(losses: list[Loss], wishes: Wishes, device: torch.device) -> Totals:
    """Add up micro-batches and ranks, in float64 and in one exchange."""
    shapes = {name: metric.shape for name, metric in losses[0].metrics.items()}
    parts = []
    for loss in losses:
        means = [torch.ones_like(loss.mean), loss.mean, *(loss.metrics[name] for name in shapes)]
        parts.append(torch.cat([mean.double().flatten() for mean in means]) * loss.weight)
    plain = [sum(loss.num_tokens for loss in losses), sum(loss.flops for loss in losses), *wishes]
    sums = dist.total(
        torch.cat(
            [torch.tensor(plain, dtype=torch.float64, device=device), torch.stack(parts).sum(0)]
        )
    )
    num_tokens, flops, *wished = sums[: len(plain)].tolist()
    weight, *means = sums[len(plain) :].split([1, 1, *(s.numel() for s in shapes.values())])
    loss, *metrics = (mean / weight for mean in means)  # not a number when no token is scored
    return Totals(
        loss=float(loss),
        weight=float(weight),
        num_tokens=int(num_tokens),
        flops=flops,
        metrics={
            name: metric.view(shape)
            for (name, shape), metric in zip(shapes.items(), metrics, strict=True)
        },
        wishes=Wishes(*(count > 0 for count in wished)),
    )


def _move(trainee: Trainee, totals: Totals, *, learning_rate: float) -> float | None:
    """Let the optimisers step and return the gradient's norm, or skip the step: None."""
    if math.isfinite(totals.loss):
        norm = trainee.gradient_norm(total_weight=totals.weight)
        if math.isfinite(norm):
            trainee.move(learning_rate=learning_rate, norm=norm)
            return norm
    trainee.forget()
    return None


def _figures(
    step: int, totals: Totals, norm: float | None, rate: float, *, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is said about a step; `step` counts it."""
    return {
        "step": step,
        "tokens": before.get("tokens", 0) + totals.num_tokens,
        "loss": totals.loss if math.isfinite(totals.loss) else None,
        "learning_rate": rate,
        "gradient_norm": norm,
        "skipped_in_row": before.get("skipped_in_row", 0) + 1 if norm is None else 0,
    } | {name: _told(metric) for name, metric in totals.metrics.items()}


def _told(metric: Tensor) -> Any:
    """Return a metric as JSON; of many numbers four decimals are enough."""
    return metric.item() if metric.numel() == 1 else metric.round(decimals=4).tolist()


def _check(figures: Mapping[str, Any], config: FitConfig) -> None:
    """End a run that skips step after step."""
    step, skipped = figures["step"], figures["skipped_in_row"]
    log.warning("step=%d skipped_in_row=%d loss or gradient is not finite", step, skipped)
    if skipped >= config.max_skipped:
        raise TrainingError(
            f"loss or gradient was not finite {skipped} steps in a row, up to step {step}; resume "
            "from the last checkpoint with a lower optimiser.learning_rate, or look at the data "
            "of these steps"
        )


def _speed(clock: Clock, totals: Totals, peak: float | None, steps_left: int) -> dict[str, Any]:
    """Return a step's rates and the time left; `peak` is the FLOP/s of one device."""
    step_s = clock.tick()
    flops = totals.flops / step_s / dist.world().size
    return {
        "seconds": step_s,
        "tokens_per_s": totals.num_tokens / step_s,
        "mfu": flops / peak if peak else None,
        "seconds_left": clock.expected(steps_left),
    }


@torch.no_grad()
def _validate(trainee: Trainee, batches: Callable[[], Iterator[Any]]) -> float:
    """Return the mean loss over the validation set, which every rank reads whole."""
    trainee.model.eval()
    total = weight = 0.0
    for index, batch in enumerate(batches()):
        _seed(index)
        loss: Loss = trainee.scored(batch, 1.0)
        total += float(loss.mean * loss.weight)
        weight += float(loss.weight)
    trainee.model.train()
    return total / weight
