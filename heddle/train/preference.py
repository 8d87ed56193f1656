"""Preference training without a reward model (DPO). Its stage is run by `fit`.

    L = - log σ(β ((log π(y_w) - log π_0(y_w)) - (log π(y_l) - log π_0(y_l))))

y_w is the answer that is preferred to y_l, π_0 the frozen start. Sources: Rafailov et al. 2023
(arXiv:2305.18290); with `per_token` the log-probabilities are means over an answer's tokens, so
that length alone earns nothing (SimPO, Meng et al. 2024, arXiv:2405.14734, section 2.2).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn.functional import logsigmoid

from heddle.errors import ConfigError, DataError
from heddle.model.transformer import Transformer
from heddle.train.answers import log_probs, pack_answers
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.order import Permutation
from heddle.train.data.pairs import Pair, read_pairs
from heddle.train.depth import check_depth
from heddle.train.forward import batch_flops
from heddle.train.reference import chat_format, check_context, needs_start, reference_log_probs
from heddle.train.stage import Loss, Stage
from heddle.train.teacher import frozen
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """How pairs are learned from.

    Attributes:
        num_pairs: of a micro-batch.
        beta: how dear it is to leave the start.
        per_token: compare means over tokens, not sums; `beta` is then usually ten times as large.
        loops: through the thinking block for each token.
        num_validation: pairs that are held out; 0 is no validation.
        seed: of the pairs' order, new in each epoch, and of which are held out.
    """

    num_pairs: int = 8
    beta: float = 0.1
    per_token: bool = False
    loops: int = 1
    num_validation: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.num_pairs < 1 or self.loops < 1 or self.beta <= 0:
            raise ConfigError("num_pairs and loops must be at least 1, beta above 0")
        if self.num_validation < 0 or self.seed < 0:
            raise ConfigError("num_validation and seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """The objective: answers that people prefer, from a file of pairs."""

    pairs: Path
    max_tokens: int = 1024
    dpo: DpoConfig = DpoConfig()

    def stage(self, start: Checkpoint | None) -> Stage:
        """Read the pairs as the start's chats."""
        start = needs_start(start, "preference training")
        check_context(start, self.max_tokens)
        pairs = read_pairs(
            self.pairs, chat_format(start), end_ids=start.eos_ids, max_tokens=self.max_tokens
        )
        return dpo(pairs, self.dpo, reference=frozen(start))


def dpo(pairs: Sequence[Pair], config: DpoConfig, *, reference: Transformer) -> Stage:
    """Return the stage. Raises DataError when too few pairs are left to learn from."""
    order = Permutation(len(pairs), f"{config.seed}/held out").items(0, len(pairs))
    shuffled = [pairs[place] for place in order]
    held_out, learned = shuffled[: config.num_validation], shuffled[config.num_validation :]
    if len(learned) < config.num_pairs:
        raise DataError(
            f"{len(pairs)} pairs, {len(held_out)} of them held out, do not fill a micro-batch of "
            f"{config.num_pairs}: lower num_pairs or num_validation"
        )

    def pair(number: int) -> Pair:
        epoch, place = divmod(number, len(learned))
        [item] = Permutation(len(learned), f"{config.seed}/{epoch}").items(place, place + 1)
        return learned[item]

    def batch(number: int) -> list[Pair]:
        first = number * config.num_pairs
        return [pair(first + offset) for offset in range(config.num_pairs)]

    def validation() -> Iterator[list[Pair]]:
        for first in range(0, len(held_out), config.num_pairs):
            yield held_out[first : first + config.num_pairs]

    def loss(model: Any, batch: list[Pair], progress: float) -> Loss:
        return dpo_loss(model, batch, config, reference=reference)

    identity = {
        "pairs": hashlib.sha256(repr(list(pairs)).encode()).hexdigest(),
        "num_pairs": config.num_pairs,
        "num_validation": config.num_validation,
        "seed": config.seed,
    }
    return Stage(
        batches=numbered_batches(batch, identity),
        loss=loss,
        validation=validation if held_out else None,
        uses_every_parameter=False,
    )


def dpo_loss(
    model: Transformer, batch: Sequence[Pair], config: DpoConfig, *, reference: Transformer
) -> Loss:
    """Return the mean loss of a micro-batch of pairs.

    `accuracy` is the share of pairs whose preferred answer gained more than the other, `margin` the
    mean argument of σ. Raises ConfigError for more loops than the network takes.
    """
    answers = pack_answers(
        [answer for pair in batch for answer in pair],
        loops=config.loops,
        device=model.embed.weight.device,
    )
    packed = answers.packed
    check_depth(model.config, packed.depth)
    log_prob_N, trace = log_probs(model, answers)
    gain_N = log_prob_N - reference_log_probs(reference, answers, model)
    gain_S = answers.means(gain_N) if config.per_token else answers.sums(gain_N)
    chosen_S, rejected_S = gain_S.view(-1, 2).unbind(1)
    margin_S = config.beta * (chosen_S - rejected_S)
    work = batch_flops(model.config, packed, trace)
    return Loss(
        mean=-logsigmoid(margin_S).mean(),
        weight=margin_S.new_tensor(len(batch)),
        num_tokens=len(packed.token_T),
        flops=work + work / 3,  # the reference only reads
        metrics={
            "accuracy": (margin_S.detach() > 0).float().mean(),
            "margin": margin_S.detach().mean(),
            "chosen_gain": chosen_S.detach().mean(),
            "rejected_gain": rejected_S.detach().mean(),
        },
    )
