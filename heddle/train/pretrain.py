"""Pretraining: predict every next token of packed documents. Its stage is run by `fit`."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from heddle.model.batch import Packed
from heddle.model.transformer import Transformer
from heddle.train.data.pack import TrainBatch
from heddle.train.losses import token_loss
from heddle.train.metrics import dense_training_flops
from heddle.train.stage import Batches, Loss, Stage


def pretrain(
    batches: Batches,
    *,
    validation: Callable[[], Iterator[TrainBatch]] | None = None,
    z_loss: float = 0.0,
) -> Stage:
    """Return the stage; `z_loss` weighs the squared log-partition, 1e-4 being usual."""

    def loss(model: Any, batch: TrainBatch, progress: float) -> Loss:
        return next_token_loss(model, batch, z_loss=z_loss)

    return Stage(batches=batches, loss=loss, validation=validation)


def next_token_loss(model: Transformer, batch: TrainBatch, *, z_loss: float) -> Loss:
    """Return the mean cross entropy of a dense model on a batch, plus the weighted z-loss."""
    num_tokens = len(batch.token_T)
    num_attended = int(batch.position_T.sum()) + num_tokens
    batch = batch.to(model.embed.weight.device)
    nothing = torch.empty(0, dtype=torch.long, device=batch.token_T.device)
    packed = Packed(batch.token_T, batch.position_T, batch.bounds_S1, nothing)
    out = model(packed)
    sums = token_loss(out.hidden_TD, model.head, batch.target_T, batch.weight_T)
    cross_entropy, squared = (total / sums.weight.clamp(min=1e-9) for total in sums[:2])
    return Loss(
        mean=cross_entropy + z_loss * squared,
        weight=sums.weight,
        num_tokens=num_tokens,
        flops=dense_training_flops(
            model, model.config, num_tokens=num_tokens, num_attended=num_attended
        ),
        metrics={"cross_entropy": cross_entropy.detach()},
    )
