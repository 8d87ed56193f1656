"""Train a small network on the five domains, and measure it on each. Called by experiments."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from heddle.model.batch import Packed, pack
from heddle.model.config import CLUSTERS, ModelConfig
from heddle.model.cost import MATRICES_PER_EXPERT, expert_channels
from heddle.model.transformer import Transformer
from heddle.tasks.task import Split
from heddle.train.adaptive import Auxiliary, routers
from heddle.train.data.document import IGNORED
from heddle.train.data.mix import Part
from heddle.train.data.stream import BatchStream
from heddle.train.fit import FitConfig, fit
from heddle.train.forward import batch_flops
from heddle.train.initial import first_network
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.saving import SavingConfig
from heddle.train.schedule import Schedule
from recipes.experiments.domains import DOCUMENT_TOKENS, MARKS, SENTENCES, DomainDocuments

DOMAINS = tuple(SENTENCES)
NUM_HELD_OUT = 64  # documents of a domain and a split


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained on the domains, each a fifth of the tokens, and for how long.

    Attributes:
        has_prior: whether routers are told what the gate says; it learns to name domains anyhow.
        has_true_labels: whether a document is labelled with its domain, or with any at random.
        stage: a later one reads other documents.
    """

    model: ModelConfig
    num_steps: int
    tokens_per_batch: int = 1024
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-2)
    auxiliary: Auxiliary = Auxiliary(cost=0.0)
    has_prior: bool = True
    has_true_labels: bool = True
    stage: int = 0

    def trained(self, seed: int, folder: Path, start: Transformer | None = None) -> Transformer:
        """Return a new network, or `start` itself, after the last step."""
        parts = {name: Part(source=self._source(name, seed)) for name in DOMAINS}
        stream = BatchStream(
            parts,
            seed=seed,
            tokens_per_batch=self.tokens_per_batch,
            max_sequence=DOCUMENT_TOKENS,
        )
        model = start or first_network(self.model, None, seed=seed)
        if not self.has_prior:
            for router in routers(model):
                torch.nn.init.zeros_(router.prior).requires_grad_(False)
        fit(
            model,
            pretrain(stream.batches, auxiliary=self.auxiliary),
            optimiser=replace(
                self.optimiser,
                schedule=Schedule(warmup_steps=20, decay_steps=self.num_steps // 2),
            ),
            config=FitConfig(num_steps=self.num_steps, seed=seed, saving=SavingConfig(keep=1)),
            folder=folder,
            configuration=asdict(self),
        )
        return model.eval()

    def _source(self, domain: str, seed: int) -> DomainDocuments:
        label = CLUSTERS.index(domain) if self.has_true_labels else None
        return DomainDocuments(domain, split="train", seed=1000 * self.stage + seed, label=label)


class Held(NamedTuple):
    """Held-out documents of one domain: packed, what to predict, and where the answers stand."""

    packed: Packed
    target_T: Tensor
    is_answer_T: Tensor


class Reading(NamedTuple):
    """How a network reads a domain: means over its tokens, and over the answers.

    `loss` is of every byte, in nats; `right` the share of answers (the letter after a pair) that
    the network thinks likeliest. FLOPs are of one forward. `cluster_share` is the share of tokens
    for which the gate prefers each cluster; a network without a gate has none.
    """

    loss: float
    right: float
    flops: float
    expert_flops: float
    cluster_share: list[float]


def held_out(split: Split) -> dict[str, Held]:
    """Return documents of each domain, the same for all seeds and arms."""
    return {name: _held_out(name, split) for name in DOMAINS}


def _held_out(domain: str, split: Split) -> Held:
    source = DomainDocuments(domain, split=split, label=CLUSTERS.index(domain))
    documents = [source.read(index) for index in range(NUM_HELD_OUT)]
    packed = pack([document.token_N.tolist() for document in documents])
    is_mark_T = torch.isin(packed.token_T, torch.tensor(list(MARKS.encode())))
    is_answer_T = is_mark_T.roll(2) & (packed.position_T >= 2)
    target_T = torch.cat([torch.from_numpy(document.target_N) for document in documents])
    return Held(packed, target_T, is_answer_T & (target_T != IGNORED))


def losses(
    model: Transformer, held: Mapping[str, Held], *, without: int | None = None
) -> list[float]:
    """Return the loss on each domain, without the experts of one cluster if it is given.

    No token can choose them: others take their place.
    """
    return [reading.loss for reading in read(model, held, without=without).values()]


@torch.no_grad()
def read(
    model: Transformer, held: Mapping[str, Held], *, without: int | None = None
) -> dict[str, Reading]:
    """Return how a network reads each domain, without a cluster as `losses` has it."""
    return {name: _read(model, each, without) for name, each in held.items()}


def _read(model: Transformer, held: Held, without: int | None) -> Reading:
    packed, num_tokens = held.packed, len(held.target_T)
    if without is not None:
        steer_TG = torch.zeros(num_tokens, len(CLUSTERS))
        steer_TG[:, without] = -torch.inf
        packed = packed._replace(steer_TG=steer_TG)
    out = model(packed)
    is_right_T = out.logits_NV.argmax(-1) == held.target_T
    choices, cluster_TG = out.trace.choices, out.trace.cluster_TG
    channels = float(expert_channels(model.config, choices)) if choices else 0.0
    return Reading(
        loss=cross_entropy(out.logits_NV, held.target_T, ignore_index=IGNORED).item(),
        right=is_right_T[held.is_answer_T].float().mean().item(),
        flops=batch_flops(model.config, packed, out.trace, backward=False) / num_tokens,
        expert_flops=2 * MATRICES_PER_EXPERT * model.config.width * channels / num_tokens,
        cluster_share=[] if cluster_TG is None else _preferred(cluster_TG),
    )


def _preferred(cluster_TG: Tensor) -> list[float]:
    counts_G = torch.bincount(cluster_TG.argmax(-1), minlength=len(CLUSTERS))
    return (counts_G / len(cluster_TG)).tolist()
