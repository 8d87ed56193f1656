"""A recipe for tests on ranks: experts, loops, and micro-batches as unequal as can be."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch

from heddle.model.batch import Depth, Packed
from heddle.model.config import Expert, FabricConfig, MemoryConfig, ModelConfig, ThinkConfig, Tier
from heddle.model.transformer import Transformer
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.losses import token_loss
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run
from heddle.train.stage import Cursor, Loss, Stage
from heddle.weights.checkpoint import Checkpoint

VOCAB_SIZE = 64
CONFIG = ModelConfig(
    vocab_size=VOCAB_SIZE,
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    ffn_width=48,
    context_length=64,
    fabric=FabricConfig(
        # 29 columns: no two ranks can have equally many, and their border lies inside an expert.
        experts=(Expert(0, 12), Expert(1, 0), Expert(2, 9), Expert(3, 8)),
        context_width=8,
    ),
    think=ThinkConfig(first_layer=1, num_layers=1, adapter_rank=4, lora_rank=4, block_tokens=8),
    memory=MemoryConfig(block_tokens=8, sink_tokens=1, window_blocks=1, tiers=(Tier(4, None),)),
)


def unequal_model() -> Transformer:
    """Return a network none of whose parts is zero, the same whenever called."""
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2)
    return model


def packed(number: int) -> Packed:
    """Return a micro-batch; of three that follow each other one thinks in no token, one in most.

    Of two neighbours one is longer than a block of tokens, so that it alone has slots.
    """
    generator = torch.Generator().manual_seed(number)
    length = (5, 14, 11, 8)[number % 4]
    bounds = (0, length, length + 7)
    token_T = torch.randint(VOCAB_SIZE, (bounds[-1],), generator=generator)
    max_T = 1 + token_T % (1 + number % 3)
    return Packed(
        token_T=token_T,
        position_T=torch.cat([torch.arange(end - start) for start, end in pairwise(bounds)]),
        bounds_S1=bounds,
        output_N=torch.empty(0, dtype=torch.long),
        depth=Depth(max_T, torch.zeros_like(max_T, dtype=torch.bool)),
    )


def batches(cursor: Cursor | None, *, rank: int, num_ranks: int) -> Iterator[tuple[Packed, Cursor]]:
    for number in count(cursor["number"] if cursor else 0, num_ranks):
        yield packed(number + rank), {"number": number + num_ranks}


def loss(model: Any, batch: Packed, progress: float) -> Loss:
    out = model(batch)
    weight_T = 1 + batch.token_T / VOCAB_SIZE
    sums = token_loss(out.hidden_TD, model.head, batch.token_T.roll(-1), weight_T)
    load_E = torch.stack([choice.weight_TE.mean(0) for choice in out.trace.choices]).mean(0)
    return Loss(
        mean=sums.negative_log_likelihood / sums.weight,
        weight=sums.weight,
        num_tokens=len(batch.token_T),
        flops=0.0,
        metrics={"load": load_E.detach(), "loops": out.trace.loops_T.float().mean()},
    )


@dataclass(frozen=True, kw_only=True)
class Unequal:
    """The objective."""

    def stage(self, start: Checkpoint | None) -> Stage:
        return Stage(batches=batches, loss=loss, uses_every_parameter=False)


def unequal() -> Run:
    """Return the run; its function's name is the file's, as `heddle train` wants it."""
    return Run(
        folder=Path("runs/unequal"),
        model=CONFIG,
        objective=Unequal(),
        optimiser=OptimiserConfig(learning_rate=1e-3, clip_norm=0.5),
        fit=FitConfig(num_steps=3, num_microbatches=4),
    )


def train(
    folder: Path, *, hidden: str = "muon", frozen: str = "", resume: bool = False, **fit_fields
) -> Result:
    """Train the network, but for the parameters whose names match `frozen`."""
    run, model = unequal(), unequal_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not fnmatch(name, frozen)
    return fit(
        model,
        run.objective.stage(None),
        optimiser=replace(run.optimiser, hidden=hidden),
        config=replace(run.fit, **fit_fields),
        folder=folder,
        resume=resume,
        configuration={},
    )
