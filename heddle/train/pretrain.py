"""Predict every next token of packed documents, and learn to route and to loop while doing so.

One objective for pretraining, healing an upcycled model, its cluster experts and fine-tuning: they
differ in data, in what trains (`Run.trains`), in weights and in depth. Stages are run by `fit`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from heddle.model.batch import Depth
from heddle.model.memory import Memory
from heddle.model.transformer import Transformer
from heddle.train.adaptive import USUAL, Auxiliary, balance_routers
from heddle.train.data.corpus import Corpus
from heddle.train.data.pack import TrainBatch
from heddle.train.depth import DepthSchedule, check_depth
from heddle.train.forward import batch_flops, packed_batch
from heddle.train.losses import token_loss
from heddle.train.stage import Batches, Loss, Stage
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """The objective over a corpus; `depth` None is one loop.

    `z_loss` weighs the squared log-partition of the vocabulary, 1e-4 being usual.
    """

    corpus: Corpus = Corpus()
    auxiliary: Auxiliary = USUAL
    depth: DepthSchedule | None = None
    z_loss: float = 0.0

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open the data and return the stage."""
        batches = self.corpus.batches(start)
        return pretrain(
            batches,
            validation=batches.validation,
            z_loss=self.z_loss,
            auxiliary=self.auxiliary,
            depth=self.depth.depth if self.depth else None,
        )


def pretrain(
    batches: Batches,
    *,
    validation: Callable[[], Iterator[TrainBatch]] | None = None,
    z_loss: float = 0.0,
    auxiliary: Auxiliary = USUAL,
    depth: Callable[[TrainBatch, float], Depth] | None = None,
) -> Stage:
    """Return the stage over any batches.

    `depth`, such as `DepthSchedule.depth`, gives a batch's loops when a share of the run is done.
    """

    def loss(model: Any, batch: TrainBatch, progress: float) -> Loss:
        return next_token_loss(
            model,
            batch,
            z_loss=z_loss,
            auxiliary=auxiliary,
            depth=depth(batch, progress) if depth else None,
            progress=progress,
        )

    return Stage(
        batches=batches,
        loss=loss,
        validation=validation,
        after_step=partial(balance_routers, rate=auxiliary.balance_rate),
        uses_every_parameter=False,  # at one loop the later loops' have none, halting never
    )


def next_token_loss(
    model: Transformer,
    batch: TrainBatch,
    *,
    z_loss: float = 0.0,
    auxiliary: Auxiliary = USUAL,
    depth: Depth | None = None,
    progress: float = 0.0,
    memory: Memory | None = None,
) -> Loss:
    """Return the mean cross entropy on a batch, plus, in training, the weighted other terms.

    In evaluation the loss is the cross entropy alone. Raises ConfigError for more loops than the
    network takes.
    """
    check_depth(model.config, depth)
    batch = batch.to(model.embed.weight.device)
    out = model(packed_batch(batch, depth), memory)
    sums = token_loss(out.hidden_TD, model.head, batch.target_T, batch.weight_T)
    mean, squared = (total / sums.weight.clamp(min=1e-9) for total in sums[:2])
    metrics = {"cross_entropy": mean.detach()}
    if model.training:
        extra, told = auxiliary.of(model.config, out.trace, batch.cluster_T, progress)
        mean, metrics = mean + z_loss * squared + extra, metrics | told
    return Loss(
        mean=mean,
        weight=sums.weight,
        num_tokens=len(batch.token_T),
        flops=batch_flops(model.config, batch, out.trace),
        metrics=metrics,
    )
