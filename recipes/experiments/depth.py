"""What loops are for: answers by the number of loops, against networks without them; and halting.

    python -m recipes.experiments.depth

Its page is docs/experiments/depth.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from heddle.model.config import RopeConfig
from heddle.model.cost import total_params
from heddle.model.presets import NANO, cluster_experts
from heddle.model.transformer import Transformer
from heddle.train.data.pack import TrainBatch
from heddle.train.data.vocabulary import BYTES_ONLY
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.halting import Halting
from heddle.train.initial import first_network, train_only
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.saving import SavingConfig
from heddle.train.schedule import Schedule
from heddle.train.stage import Stage
from recipes.experiments.chains import (
    Answered,
    Chains,
    answered,
    questions,
    same_loops_elsewhere,
    training_depth,
)
from recipes.experiments.depth_tables import (
    ASKED_STEPS,
    LOOPS,
    TASKS,
    TRAINED_LOOPS,
    panels,
    tables,
)
from recipes.experiments.experiment import Experiment, Figures, run

MIXED_STEPS = range(2, TRAINED_LOOPS + 1)
assert NANO.think and NANO.fabric, "nano thinks, and has experts"
# Three layers of nano, the thinking block between two others; a token a byte. Experts are less than
# half as wide: with nano's own the loop is learned later (docs/training.md).
LOOPED = replace(
    NANO,
    vocab_size=BYTES_ONLY,
    num_layers=3,
    num_kv_heads=NANO.num_heads,
    qk_norm=True,
    rope=RopeConfig(base=100.0),  # the step before this one matters, and no other
    fabric=replace(NANO.fabric, experts=cluster_experts(20)),
    think=replace(NANO.think, first_layer=1, num_layers=1, adapter_rank=64, patience=2),
    memory=None,
)
DEEPER = replace(LOOPED, num_layers=12, think=None)  # the FLOPs of eight loops, in one pass
NETWORKS = {"looped": LOOPED, "one-pass": LOOPED, "deeper": DEEPER}


class Form(NamedTuple):
    """How much is done: steps of training and of halting, questions a point."""

    num_steps: int
    num_halting_steps: int
    num_asked: int
    batch_tokens: int = 1024


SHORT = Form(num_steps=400, num_halting_steps=80, num_asked=200)
FULL = Form(num_steps=1500, num_halting_steps=300, num_asked=1000)


def form_of(task: str, *, full: bool) -> Form:
    """Return how much a task takes: chains of cups are learned later than the others."""
    form = FULL if full else SHORT
    return form._replace(num_steps=form.num_steps * 3 // 2) if task == "cups" else form


def trial(task: str, way: str, form: Form, seed: int, folder: Path) -> Figures:
    """Train one network and ask it what no training question has asked."""
    chains = Chains(
        task=task,
        longest=TRAINED_LOOPS,
        num_ramp=form.num_steps // 3,
        batch_tokens=form.batch_tokens,
        seed=seed,
    )
    is_looped = way == "looped"
    model = first_network(NETWORKS[way], None, seed=seed)
    stage = pretrain(chains.batches(), depth=training_depth if is_looped else None)
    trained = train(model, stage, form.num_steps, seed=seed, folder=folder / "network")
    figures: Figures = {
        "parameters": total_params(model.config),
        "tokens": trained.figures["tokens"],
        "by_loops": {
            str(steps): by_loops(
                model,
                questions(task, "test", steps, range(form.num_asked)),
                loops=LOOPS if is_looped else (1,),
            )
            for steps in ASKED_STEPS
        },
    }
    if is_looped:
        learn_to_halt(model, chains, form.num_halting_steps, folder=folder / "halting")
        figures["selection"] = selection(model, task, num_asked=form.num_asked)
    return figures


def learn_to_halt(model: Transformer, chains: Chains, num_steps: int, *, folder: Path) -> None:
    """Train the two readings alone, on questions of all lengths."""
    train_only(model, ("think.read*",))
    stage = Stage(
        batches=replace(chains, num_ramp=1).batches(),
        loss=Halting(most_loops=TRAINED_LOOPS, hard="changed", reach=2, caution=10.0).loss,
        uses_every_parameter=False,
    )
    train(model, stage, num_steps, seed=chains.seed, folder=folder, learning_rate=2e-2)


def train(
    model: Transformer,
    stage: Stage,
    num_steps: int,
    *,
    seed: int,
    folder: Path,
    learning_rate: float = 5e-3,
) -> Result:
    """Train in place, with the rate that all of these experiments have."""
    schedule = Schedule(warmup_steps=20, decay_steps=num_steps * 2 // 5, decay="linear")
    result = fit(
        model,
        stage,
        optimiser=OptimiserConfig(learning_rate=learning_rate, schedule=schedule),
        config=FitConfig(num_steps=num_steps, seed=seed, saving=SavingConfig(every_steps=0)),
        folder=folder,
        resume=True,
        configuration={},
    )
    model.eval()
    return result


def _trial(task: str, way: str, seed: int, full: bool, folder: Path) -> Figures:
    return trial(task, way, form_of(task, full=full), seed, folder)


@torch.no_grad()
def by_loops(model: Transformer, batch: TrainBatch, *, loops: Sequence[int]) -> dict[str, Figures]:
    """Return how questions are answered with each number of loops."""
    depths = {str(count): exact_depth(count, len(batch.token_T)) for count in loops}
    return {
        count: answered(model, batch, model(packed_batch(batch, depth)))._asdict()
        for count, depth in depths.items()
    }


@torch.no_grad()
def selection(model: Transformer, task: str, *, num_asked: int) -> dict[str, Figures]:
    """Return how questions of all lengths are answered when each token has its own loops.

    Beside it: all tokens with the trained loops, with one, and the chosen loops at random tokens.
    """
    found: dict[str, list[Answered]] = {}
    num = num_asked // len(MIXED_STEPS)
    for steps in MIXED_STEPS:
        batch = questions(task, "test", steps, range(num_asked, num_asked + num))
        num_tokens = len(batch.token_T)
        chosen = exact_depth(TRAINED_LOOPS, num_tokens)
        chosen = chosen._replace(auto_T=torch.ones_like(chosen.auto_T))
        out = model(packed_batch(batch, chosen))
        assert out.trace.loops_T is not None, "a network that thinks counts loops"
        elsewhere = same_loops_elsewhere(out.trace.loops_T, seed=steps)
        outs = {
            "selective": out,
            "random": model(packed_batch(batch, elsewhere)),
            "always": model(packed_batch(batch, exact_depth(TRAINED_LOOPS, num_tokens))),
            "one loop": model(packed_batch(batch)),
        }
        for name, each in outs.items():
            found.setdefault(name, []).append(answered(model, batch, each))
    return {name: _pooled(each)._asdict() for name, each in found.items()}


def _pooled(parts: Sequence[Answered]) -> Answered:
    """Return the means over parts of equally many questions, of a token's figures over tokens."""
    num_tokens = sum(part.num_tokens for part in parts)
    return Answered(
        share=fmean(part.share for part in parts),
        loops=sum(part.loops * part.num_tokens for part in parts) / num_tokens,
        flops=sum(part.flops * part.num_tokens for part in parts) / num_tokens,
        num_tokens=num_tokens,
    )


EXPERIMENT = Experiment(
    name="depth",
    title="Depth: right answers by loops",
    arms={f"{task}-{way}": partial(_trial, task, way) for task, way in product(TASKS, NETWORKS)},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
