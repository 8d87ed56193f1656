"""The loop curriculum: learn to think again where the first pass is wrong, and harm nothing else.

    L = Σ_hard CE(p_T, next) + Σ_easy KL(p_1 || p_T)      hard: argmax p_1 is not the next token

`p_1`, the first loop's distribution, is fixed: for an upcycled model with a frozen base it is the
base's own. Always looping repairs some tokens and breaks others (arXiv:2511.08577), which the
second sum is there to prevent. Its stage is run by `fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heddle.errors import ConfigError
from heddle.model.batch import Depth
from heddle.model.transformer import Transformer
from heddle.train.adaptive import USUAL, Auxiliary, balance_routers
from heddle.train.data.corpus import Corpus
from heddle.train.data.document import IGNORED, cluster_number
from heddle.train.data.pack import TrainBatch
from heddle.train.depth import DepthSchedule, check_depth
from heddle.train.forward import batch_flops, packed_batch
from heddle.train.losses import divergence, sum_by_chunk
from heddle.train.stage import Loss, Stage
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class LoopCurriculum:
    """The objective; its run should train `think.*`, without `think.read*`.

    `depth` must ask for two loops at least. Every token counts as easy in text of the clusters that
    `keeps` names: more loops should leave it as it is.
    """

    corpus: Corpus = Corpus()
    depth: DepthSchedule = DepthSchedule(least=2)
    auxiliary: Auxiliary = USUAL
    keeps: tuple[str, ...] = ()

    def __post_init__(self):
        for name in self.keeps:
            cluster_number(name, where="the loop curriculum: keeps")
        if self.depth.least < 2:
            raise ConfigError(
                f"the loop curriculum needs two loops at least: set depth.least to 2 or more, not "
                f"{self.depth.least}"
            )

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open the data and return the stage."""
        batches = self.corpus.batches(start)
        return Stage(
            batches=batches,
            loss=self.loss,
            validation=batches.validation,
            after_step=partial(balance_routers, rate=self.auxiliary.balance_rate),
            uses_every_parameter=False,
        )

    def loss(self, model: Any, batch: TrainBatch, progress: float) -> Loss:
        """Return `think_again_loss` at the depth of this place in the run."""
        return think_again_loss(
            model,
            batch,
            depth=self.depth.depth(batch, progress),
            auxiliary=self.auxiliary,
            progress=progress,
            kept=[cluster_number(name, where="keeps") for name in self.keeps],
        )


def think_again_loss(
    model: Transformer,
    batch: TrainBatch,
    *,
    depth: Depth,
    auxiliary: Auxiliary = USUAL,
    progress: float = 0.0,
    kept: Sequence[int] = (),
) -> Loss:
    """Return the curriculum's mean loss on a batch, plus, in training, the weighted other terms.

    All tokens of the clusters `kept` count as easy.
    """
    check_depth(model.config, depth)
    batch = batch.to(model.embed.weight.device)
    with torch.no_grad():
        first = model(packed_batch(batch))
    out = model(packed_batch(batch, depth))
    rows = (batch.target_T != IGNORED).nonzero()[:, 0]
    weight_N = batch.weight_T[rows].float()
    may_be_hard_T = ~torch.isin(batch.cluster_T, torch.tensor(kept, device=batch.cluster_T.device))
    sums = sum_by_chunk(
        partial(_sums, model.head),
        out.hidden_TD[rows],
        first.hidden_TD[rows],
        batch.target_T[rows],
        may_be_hard_T[rows].float(),
        weight_N,
        size=5,
    )
    weight = weight_N.sum()
    scale = 1 / weight.clamp(min=1e-9)
    hard, easy, num_hard, before, after = sums
    mean = (hard + easy) * scale + out.hidden_TD[:1].float().sum().mul(0)
    metrics = {
        "hard_share": num_hard * scale,
        "first_cross_entropy": before * scale,
        "cross_entropy": after * scale,
        "easy_divergence": easy / (weight - num_hard).clamp(min=1e-9),
    }
    if model.training:
        extra, told = auxiliary.of(model.config, out.trace, batch.cluster_T, progress)
        mean, metrics = mean + extra, metrics | told
    return Loss(
        mean=mean,
        weight=weight,
        num_tokens=len(batch.token_T),
        flops=batch_flops(model.config, batch, out.trace)
        + batch_flops(model.config, batch, first.trace, backward=False),
        metrics={name: metric.detach() for name, metric in metrics.items()},
    )


def _sums(
    head: nn.Module,
    hidden_ND: Tensor,
    first_ND: Tensor,
    target_N: Tensor,
    may_be_hard_N: Tensor,
    weight_N: Tensor,
) -> Tensor:
    """Return what hard and easy tokens add, the weight of hard ones, and both cross entropies."""
    with torch.no_grad():
        first_NV = head(first_ND)
        is_hard_N = (first_NV.argmax(-1) != target_N).float() * may_be_hard_N
    logits_NV = head(hidden_ND)
    before_N, after_N = (
        nn.functional.cross_entropy(logits, target_N, reduction="none")
        for logits in (first_NV, logits_NV)
    )
    easy_N = divergence(first_NV, logits_NV) * (1 - is_hard_N)
    parts = (after_N * is_hard_N, easy_N, is_hard_N, before_N, after_N)
    return torch.stack([part @ weight_N for part in parts])
