"""By which keys and values a token sees earlier blocks: those of their first loop, or of the last.

    python -m recipes.experiments.loop_cache

Its page is docs/experiments/loop_cache.md.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from heddle.engine.paged_memory import LaterLoops, PagedMemory, Segment
from heddle.engine.pages import Pages
from heddle.evals.stats import difference
from heddle.model.batch import Out, Packed, Trace
from heddle.model.memory import Memory
from heddle.model.transformer import Transformer
from heddle.train.adaptive import USUAL, balance_routers
from heddle.train.chart import Lines
from heddle.train.data.pack import TrainBatch
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.initial import first_network
from heddle.train.pretrain import next_token_loss
from heddle.train.stage import Loss, Stage
from recipes.experiments.chains import Chains, answered, questions, training_depth
from recipes.experiments.depth import LOOPED, Form, form_of, train
from recipes.experiments.depth_tables import LOOPS, TRAINED_LOOPS, each, points
from recipes.experiments.experiment import Experiment, Figures, Found, Table, over_seeds, run
from recipes.experiments.first_loop import FirstLoop

TASK = "cups"
BLOCK_TOKENS = 8  # the text and the first four steps; the others lie in the next block
ASKED_STEPS = (4, TRAINED_LOOPS)
assert LOOPED.think, "the network loops"
NETWORK = replace(LOOPED, think=replace(LOOPED.think, block_tokens=BLOCK_TOKENS))


def first_loop(model: Transformer, batch: TrainBatch) -> Memory:
    """Return the memory that was not chosen."""
    return FirstLoop(last_loop(model, batch))


def last_loop(model: Transformer, batch: TrainBatch) -> Memory:
    """Return the product's memory."""
    return model.whole_sequences(batch.bounds_S1)


READINGS = (  # the engine has no cache of the first loop's
    ("first-loop", "side by side"),
    ("last-loop-by-block", "side by side"),
    ("last-loop-by-block", "token by token"),
)
CACHES = {"first-loop": first_loop, "last-loop-by-block": last_loop}


def trial(cache: str, form: Form, seed: int, folder: Path) -> Figures:
    """Train with one cache; ask with it side by side, and as it is served."""
    chains = Chains(
        task=TASK,
        longest=TRAINED_LOOPS,
        num_ramp=form.num_steps // 3,
        batch_tokens=form.batch_tokens,
        seed=seed,
    )
    remember = CACHES[cache]

    def loss(model: Any, batch: TrainBatch, progress: float) -> Loss:
        depth = training_depth(batch, progress)
        memory = remember(model, batch)
        return next_token_loss(model, batch, depth=depth, progress=progress, memory=memory)

    model = first_network(NETWORK, None, seed=seed)
    stage = Stage(
        batches=chains.batches(),
        loss=loss,
        after_step=partial(balance_routers, rate=USUAL.balance_rate),
        uses_every_parameter=False,
    )
    train(model, stage, form.num_steps, seed=seed, folder=folder)
    asked = {steps: questions(TASK, "test", steps, range(form.num_asked)) for steps in ASKED_STEPS}
    readings: dict[str, Callable[[Transformer, TrainBatch, int], Out]] = {
        "side by side": partial(_side_by_side, remember),
        "token by token": token_by_token,
    }
    return {
        way: {
            str(steps): {
                str(count): answered(model, batch, readings[way](model, batch, count)).share
                for count in LOOPS
            }
            for steps, batch in asked.items()
        }
        for name, way in READINGS
        if name == cache
    }


@torch.no_grad()
def _side_by_side(
    remember: Callable[[Transformer, TrainBatch], Memory],
    model: Transformer,
    batch: TrainBatch,
    loops: int,
) -> Out:
    depth = exact_depth(loops, len(batch.token_T))
    return model(packed_batch(batch, depth), remember(model, batch))


@torch.no_grad()
def token_by_token(model: Transformer, batch: TrainBatch, loops: int) -> Out:
    """Read equally long sequences from the engine's pages; only the states are of use."""
    num_sequences, length = len(batch.bounds_S1) - 1, batch.bounds_S1[1]
    token_ST = batch.token_T.view(num_sequences, length)
    num_blocks = -(-length // BLOCK_TOKENS)
    pages = Pages(
        model.config,
        num_pages=num_sequences * num_blocks,
        page_tokens=BLOCK_TOKENS,
        dtype=model.embed.weight.dtype,
    )
    owned = torch.arange(num_sequences * num_blocks).view(num_sequences, -1).tolist()
    later = [LaterLoops() for _ in owned]
    states = []
    for position, token_S in enumerate(token_ST.unbind(1)):
        segments = [
            Segment(number, number + 1, position, *each)
            for number, each in enumerate(zip(owned, later, strict=True))
        ]
        packed = Packed(
            token_S,
            torch.full_like(token_S, position),
            tuple(range(num_sequences + 1)),
            torch.empty(0, dtype=torch.long),
            exact_depth(loops, num_sequences),
        )
        out = model(packed, PagedMemory(pages, segments))
        states.append(out.hidden_TD)
    hidden_TD = torch.stack(states, dim=1).flatten(0, 1)
    return Out(hidden_TD, hidden_TD.new_empty(0), Trace())


def tables(found: Found) -> list[Table]:
    """Return right answers by loops, and the difference that decides."""
    rows = [
        [cache, way, str(steps)]
        + [f"{100 * fmean(_right(found, cache, way, steps, count)):.0f}" for count in LOOPS]
        for steps in ASKED_STEPS
        for cache, way in READINGS
    ]
    decided = []
    for steps in ASKED_STEPS:
        first, _, last = (_right(found, *way, steps, TRAINED_LOOPS) for way in READINGS)
        decided.append([str(steps), each(first), each(last), points(difference(last, first))])
    return [
        Table(
            "Right answers by loops, percent, mean of the seeds",
            ["cache", "read", "steps", *map(str, LOOPS)],
            rows,
        ),
        Table(
            f"As it is served, with {TRAINED_LOOPS} loops: percent right, seed by seed",
            ["steps", "first loop's", "last loop's by block", "gain, points"],
            decided,
        ),
    ]


def panels(found: Found) -> list[Lines]:
    """Return right answers by loops, for both numbers of steps."""
    return [
        Lines(
            title=f"Questions of {steps} steps",
            x_label="loops",
            y_label="held-out questions answered",
            lines={
                said: [(n, fmean(_right(found, cache, way, steps, n))) for n in LOOPS]
                for said, (cache, way) in zip(("first", "last", "served"), READINGS, strict=True)
            },
            is_log_x=True,
            is_share=True,
        )
        for steps in ASKED_STEPS
    ]


def _right(found: Found, cache: str, way: str, steps: int, loops: int) -> list[float]:
    return over_seeds(found, cache, lambda figures: figures[way][str(steps)][str(loops)])


def _trial(cache: str, seed: int, full: bool, folder: Path) -> Figures:
    return trial(cache, form_of(TASK, full=full), seed, folder)


EXPERIMENT = Experiment(
    name="loop_cache",
    title="The loop cache: how earlier blocks are seen",
    arms={cache: partial(_trial, cache) for cache in CACHES},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
