"""Halting: learn to say which tokens need thought, and when more of it would change nothing.

Only the thinking block's two readings train. `hard`: the first loop gets the next token wrong
(arXiv:2511.08577), or more loops change its distribution, at this token or right behind it.
`settled` after loop t: KL(p_R || p_t) < ε, R being the deepest loop. Each step looks at one depth,
drawn anew; nothing is propagated through the network. Its stage is run by `fit`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from heddle.errors import ConfigError
from heddle.model.batch import Out
from heddle.model.config import MAX_LOOPS
from heddle.model.transformer import Transformer
from heddle.train.data.corpus import Corpus
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import TrainBatch
from heddle.train.depth import check_depth, step_random
from heddle.train.forward import batch_flops, exact_depth, packed_batch
from heddle.train.losses import divergence
from heddle.train.stage import Loss, Stage
from heddle.weights.contents import Checkpoint

CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Halting:
    """The objective; its run should train `think.read*` alone.

    Attributes:
        most_loops: depths below this are compared with it.
        epsilon: a smaller change of the distribution, in nats, is none.
        hard: what makes a token hard: the first loop gets the next token "wrong", or the deepest
            one's distribution is a "changed" one.
        reach: a token is hard too when one of so many behind it is: they may need its thoughts,
            which they see while it thinks.
        caution: how many times worse it is to leave a hard token alone than to think about an easy
            one. Where the first loop cannot know, those that come may need it to think.
        seed: of the draw of depths.
    """

    corpus: Corpus = Corpus()
    most_loops: int = 8
    epsilon: float = 0.01
    hard: Literal["wrong", "changed"] = "wrong"
    reach: int = 0
    caution: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 2 <= self.most_loops <= MAX_LOOPS:
            raise ConfigError(
                f"halting: most_loops must lie between 2 and {MAX_LOOPS}, not {self.most_loops}"
            )
        if self.epsilon <= 0:
            raise ConfigError(f"halting: epsilon must be positive, not {self.epsilon}")
        if self.reach < 0:
            raise ConfigError(f"halting: reach must not be negative, not {self.reach}")
        if self.caution <= 0:
            raise ConfigError(f"halting: caution must be positive, not {self.caution}")

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open the data and return the stage."""
        batches = self.corpus.batches(start)
        return Stage(batches=batches, loss=self.loss, validation=batches.validation)

    def loss(self, model: Any, batch: TrainBatch, progress: float) -> Loss:
        """Return the binary cross entropies of both readings; in validation at every depth."""
        depths = list(range(1, self.most_loops))
        if model.training:
            depths = [int(step_random(self.seed, progress).choice(depths))]
        return self.loss_at(model, batch, depths)

    def loss_at(self, model: Transformer, batch: TrainBatch, depths: Sequence[int]) -> Loss:
        """Return the loss of `hard`, and that of `settled` after each of some depths."""
        num_tokens, deepest = len(batch.token_T), self.most_loops
        check_depth(model.config, exact_depth(deepest, num_tokens))
        batch = batch.to(model.embed.weight.device)
        outs: dict[int, Out] = {
            loops: model(packed_batch(batch, exact_depth(loops, num_tokens)))
            for loops in sorted({1, *depths, deepest})
        }
        rows = (batch.target_T != IGNORED).nonzero()[:, 0]
        weight_N = batch.weight_T[rows].float()
        change_N = {
            loops: _change(model, outs[deepest], outs[loops], rows) for loops in {1, *depths}
        }
        is_hard_N = change_N[1] >= self.epsilon
        if self.hard == "wrong":
            is_hard_N = _is_wrong(model, outs[1], batch, rows)
        is_hard_T = torch.zeros_like(batch.target_T, dtype=torch.bool)
        is_hard_T[rows] = is_hard_N
        is_hard_N = _reaching(is_hard_T, batch, self.reach)[rows]
        hard = _verdict(
            # What a token is read by once those of earlier blocks have thought.
            outs[deepest].trace.hard_logit_T,
            rows,
            is_hard_N,
            weight_N,
            miss_weight=self.caution,
        )
        settled = [
            _verdict(
                outs[loops].trace.settled_logit_T, rows, change_N[loops] < self.epsilon, weight_N
            )
            for loops in depths
        ]
        mean_settled = Verdict(*(torch.stack(part).mean() for part in zip(*settled, strict=True)))
        return Loss(
            mean=hard.loss + mean_settled.loss,
            weight=weight_N.sum(),
            num_tokens=num_tokens,
            flops=sum(
                batch_flops(model.config, batch, out.trace, backward=False) for out in outs.values()
            ),
            metrics={
                f"{name}_{field}": value.detach()
                for name, verdict in (("hard", hard), ("settled", mean_settled))
                for field, value in verdict._asdict().items()
            },
        )


class Verdict(NamedTuple):
    """One reading's loss and how often it is right, and how often yes is."""

    loss: Tensor
    accuracy: Tensor
    share: Tensor


def _verdict(
    logit_T: Tensor | None,
    rows: Tensor,
    is_so_N: Tensor,
    weight_N: Tensor,
    *,
    miss_weight: float = 1.0,
) -> Verdict:
    assert logit_T is not None, "a network that loops has readings"
    logit_N, is_so_N = logit_T[rows], is_so_N.float()
    scale = 1 / weight_N.sum().clamp(min=1e-9)
    loss_N = binary_cross_entropy_with_logits(
        logit_N, is_so_N, reduction="none", pos_weight=logit_N.new_tensor(miss_weight)
    )
    is_right_N = ((logit_N > 0) == (is_so_N > 0)).float()
    return Verdict(*(part_N @ weight_N * scale for part_N in (loss_N, is_right_N, is_so_N)))


def _reaching(is_hard_T: Tensor, batch: TrainBatch, reach: int) -> Tensor:
    """Mark also the tokens of the same sequence that stand at most `reach` before a marked one."""
    reached_T = is_hard_T.clone()
    for distance in range(1, min(reach, len(is_hard_T) - 1) + 1):
        is_same_sequence = batch.position_T[distance:] >= distance
        reached_T[:-distance] |= is_hard_T[distance:] & is_same_sequence
    return reached_T


def _is_wrong(model: Transformer, out: Out, batch: TrainBatch, rows: Tensor) -> Tensor:
    """Return whether the likeliest next token is not the one that comes."""
    return _by_chunk(
        lambda state_ND, target_N: model.head(state_ND).argmax(-1) != target_N,
        out.hidden_TD[rows],
        batch.target_T[rows],
    )


def _change(model: Transformer, later: Out, earlier: Out, rows: Tensor) -> Tensor:
    """Return the divergence of the next token's distribution after a loop from that before it."""
    return _by_chunk(
        lambda later_ND, earlier_ND: divergence(model.head(later_ND), model.head(earlier_ND)),
        later.hidden_TD[rows],
        earlier.hidden_TD[rows],
    )


@torch.no_grad()
def _by_chunk(make: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Return what `make` says of every row, without logits of all rows at once."""
    chunks = zip(*(tensor.split(CHUNK_TOKENS) for tensor in rows), strict=True)
    return torch.cat([make(*chunk) for chunk in chunks])
