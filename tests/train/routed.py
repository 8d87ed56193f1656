"""A small network with experts and loops in training, shared by the tests of its stages."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from heddle.model.config import Expert, FabricConfig, ModelConfig, ThinkConfig
from heddle.model.transformer import Transformer
from heddle.train.data.pack import TrainBatch
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.run import Run, load_recipe
from heddle.train.stage import Cursor, Stage
from heddle.weights.checkpoint import Checkpoint
from tests.train.small import RECIPE

CONFIG = ModelConfig(
    vocab_size=64,
    width=32,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    ffn_width=48,
    context_length=64,
    fabric=FabricConfig(
        experts=(Expert(0, 12), Expert(0, 6), Expert(0, 0), Expert(1, 8), Expert(2, 8)),
        context_width=8,
    ),
    think=ThinkConfig(first_layer=1, num_layers=2, adapter_rank=4, lora_rank=4, block_tokens=8),
)


@dataclass(frozen=True, kw_only=True)
class Routed:
    """The tiny recipe's documents; every other micro-batch is of cluster 0, the rest of 1."""

    depth: DepthSchedule = DepthSchedule(last_mean=3.0, backprop_loops=2)

    def stage(self, start: Checkpoint | None) -> Stage:
        return pretrain(self.batches, z_loss=1e-4, depth=self.depth.depth)

    def batches(
        self, cursor: Cursor | None, *, rank: int, num_ranks: int
    ) -> Iterator[tuple[TrainBatch, Cursor]]:
        recipe = replace(load_recipe(RECIPE).objective, num_documents=3, passage_tokens=6)
        for batch, place in recipe.stage(None).batches(cursor, rank=rank, num_ranks=num_ranks):
            cluster = int(batch.token_T[0]) % 2
            yield batch._replace(cluster_T=torch.full_like(batch.cluster_T, cluster)), place


def routed_run(folder: Path, *, depth: DepthSchedule | None = None, **fit_fields) -> Run:
    return Run(
        folder=folder,
        model=CONFIG,
        objective=Routed(depth=depth) if depth else Routed(),
        optimiser=OptimiserConfig(learning_rate=3e-3),
        fit=FitConfig(**({"num_steps": 4, "num_microbatches": 2} | fit_fields)),
    )


def routed_batch(*, cluster: int = 1) -> TrainBatch:
    batch, _ = next(Routed().batches(None, rank=0, num_ranks=1))
    return batch._replace(cluster_T=torch.full_like(batch.cluster_T, cluster))


def routed_model(config: ModelConfig = CONFIG, *, seed: int = 0) -> Transformer:
    """Return a network in training none of whose parts is still zero."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.2)
        model.think.gate.bias.fill_(-1.0)
    return model.train()


def reached(model: Transformer) -> set[str]:
    """Return the parameters whose gradient is not zero, and forget all gradients."""
    names = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    model.zero_grad()
    return names
