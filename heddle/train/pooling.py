"""The memory pooler: learn summary slots that answer as the exact tokens would.

    L = KL(p_exact || p_slots) + λ mean_l |O_exact - O_slots|² / |O_exact|²

The teacher is the same model reading everything exactly. The second term compares, in each layer
of the student and for its own queries, what attention returns from slots and from exact keys, so
that every pooler learns from its own error too. Only poolers train. Source of the second term:
attention matching (arXiv:2602.16284). Its stage is run by `fit`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from heddle.errors import ConfigError
from heddle.model.memory import Memory, WholeSequences
from heddle.model.slots import Pooler
from heddle.model.transformer import Transformer
from heddle.train.data.corpus import Corpus
from heddle.train.data.pack import TrainBatch
from heddle.train.forward import batch_flops, packed_batch
from heddle.train.losses import divergence, sum_by_chunk
from heddle.train.stage import Loss, Stage
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """The objective; its run should train `*.attention.pool.*` alone.

    `output_error` weighs the error of attention's output beside the divergence.
    """

    corpus: Corpus = Corpus()
    output_error: float = 0.1

    def __post_init__(self):
        if self.output_error < 0:
            raise ConfigError(
                f"pooling: output_error must not be negative, not {self.output_error}"
            )

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open the data and return the stage."""
        batches = self.corpus.batches(start)
        return Stage(
            batches=batches,
            loss=self.loss,
            validation=batches.validation,
            uses_every_parameter=False,
        )

    def loss(self, model: Any, batch: TrainBatch, progress: float) -> Loss:
        """Return `pooling_loss`."""
        return pooling_loss(model, batch, output_error=self.output_error)


class SideBySide:
    """A memory with slots that also notes, by layer, how far it is from one that reads exactly."""

    def __init__(self, slots: Memory, exact: Memory):
        self.slots, self.exact = slots, exact
        self.errors: dict[int, Tensor] = {}

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        out_THC = self.slots.attend(layer, q_THC, k_TKC, v_TKC, pooler)
        with torch.no_grad():
            exact_THC = self.exact.attend(layer, q_THC, k_TKC, v_TKC).float()
        error = (out_THC.float() - exact_THC).square().sum()
        self.errors[layer] = error / exact_THC.square().sum().clamp(min=1e-9)
        return out_THC

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        return self.slots.attend_again(layer, q_NHC, k_NKC, v_NKC, loop=loop, rows=rows)

    def part(self, rows: Tensor) -> NoReturn:
        """See `Memory.part`."""
        raise AssertionError("slots learn in one loop")

    def close_blocks(self) -> None:
        """See `Memory.close_blocks`."""
        self.slots.close_blocks()

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        return self.slots.running_mean(x_TJ, decay=decay)


def pooling_loss(model: Transformer, batch: TrainBatch, *, output_error: float) -> Loss:
    """Return the mean loss over all tokens of sequences long enough to need slots.

    Raises ConfigError for a network without summaries.
    """
    memory = model.config.memory
    if memory is None:
        raise ConfigError("the network has no summaries to train: give the run a memory")
    batch = batch.to(model.embed.weight.device)
    packed = packed_batch(batch)
    exact = partial(WholeSequences, batch.bounds_S1, block_tokens=memory.block_tokens)
    with torch.no_grad():
        teacher = model(packed, exact())
    both = SideBySide(model.whole_sequences(batch.bounds_S1), exact())
    student = model(packed, both)
    num_exact = memory.window_blocks * memory.block_tokens
    rows = (batch.position_T >= num_exact).nonzero()[:, 0]
    sums = sum_by_chunk(
        partial(_sums, model.head), student.hidden_TD[rows], teacher.hidden_TD[rows]
    )
    kl, agreement = sums / max(len(rows), 1)
    error = torch.stack(list(both.errors.values())).mean()
    mean = kl + output_error * error
    if len(rows) == 0:  # no token needs a slot, so that no pooler was asked
        mean = mean + sum(p.sum() * 0 for p in model.parameters() if p.requires_grad)
    return Loss(
        mean=mean,
        weight=torch.tensor(float(len(rows)), device=rows.device),
        num_tokens=len(batch.token_T),
        flops=batch_flops(model.config, batch, student.trace)
        + batch_flops(model.config, batch, teacher.trace, backward=False),
        metrics={
            "divergence": kl.detach(),
            "output_error": error.detach(),
            "agreement": agreement.detach(),
        },
    )


def _sums(head: nn.Module, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return the divergence of the student, and how often both prefer the same token."""
    with torch.no_grad():
        teacher_NV = head(teacher_ND)
    student_NV = head(student_ND)
    is_same_N = (student_NV.argmax(-1) == teacher_NV.argmax(-1)).float()
    return torch.stack([divergence(teacher_NV, student_NV).sum(), is_same_N.sum()])
