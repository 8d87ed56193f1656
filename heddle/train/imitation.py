"""The loss by which a student becomes like its teacher, on the same text.

    L = 4 KL_2(teacher || student) + 0.5 KL(student || teacher)     outputs; 2 is a temperature
        + 0.2 cluster mass + 0.1 halting + 0.1 relations

Cluster mass is the probability that a layer's router gives to all of a cluster's experts together:
a student may share work out among its own experts, but not among meanings. Sources: softened
outputs, Hinton et al. 2015 (arXiv:1503.02531), whose factor is the temperature's square; the
reverse divergence, MiniLLM (arXiv:2306.08543); relations, MiniLMv2 (arXiv:2012.15828). Called by
`distill`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from heddle.errors import ConfigError
from heddle.model.batch import Depth, Out, Trace
from heddle.model.config import CLUSTERS, ModelConfig
from heddle.model.router import Choice
from heddle.model.transformer import Transformer
from heddle.train.adaptive import TINY
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import TrainBatch
from heddle.train.forward import batch_flops, packed_batch
from heddle.train.losses import divergence, sum_by_chunk
from heddle.train.relations import Heads, Overhearing, relation_divergence
from heddle.train.stage import Loss
from heddle.train.student import kept_layers
from heddle.train.teacher import deeper, most_loops


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """Weights of the loss's terms; those that the networks have no part for are 0.

    Attributes:
        output: of KL(teacher || student) at `temperature`.
        reverse: of KL(student || teacher), at temperature 1.
        temperature: above 1 also shows which wrong answers are nearly right.
        cluster: of the divergence of cluster masses, the mean over gate and layers.
        halting: of the cross entropy of both halting logits.
        relations: of the relations inside the thinking block's last layer, or the last of all.
    """

    output: float = 4.0
    reverse: float = 0.5
    temperature: float = 2.0
    cluster: float = 0.2
    halting: float = 0.1
    relations: float = 0.1

    def __post_init__(self):
        if min(asdict(self).values()) < 0 or self.temperature == 0:
            raise ConfigError(
                "weights of an imitation must not be negative, its temperature above 0"
            )


def imitation_loss(
    student: Transformer,
    teacher: Transformer,
    batch: TrainBatch,
    *,
    depth: Depth,
    teacher_loops: int,
    weights: Imitation,
) -> Loss:
    """Return the loss of a batch whose tokens the student gives `depth`.

    `teacher_loops` is what the teacher gives when the student gives all that it can.
    """
    batch = batch.to(student.embed.weight.device)
    student_loops = most_loops(student.config)
    with torch.no_grad():
        their_depth = deeper(depth, student_loops=student_loops, teacher_loops=teacher_loops)
        theirs, their_heads = _overheard(teacher, batch, their_depth)
    ours, our_heads = _overheard(student, batch, depth)
    rows = (batch.target_T != IGNORED).nonzero()[:, 0]
    weight_N = batch.weight_T[rows].float()

    def sums(our_ND: Tensor, their_ND: Tensor, weight_N: Tensor) -> Tensor:
        our_NV, their_NV = student.head(our_ND), teacher.head(their_ND)
        softened = divergence(their_NV / weights.temperature, our_NV / weights.temperature)
        return torch.stack([softened @ weight_N, divergence(our_NV, their_NV) @ weight_N])

    total = sum_by_chunk(sums, ours.hidden_TD[rows], theirs.hidden_TD[rows], weight_N)
    total = total + ours.hidden_TD[:1].float().sum().mul(0)  # no scored token means gradient 0
    output, reverse = total / weight_N.sum().clamp(min=TINY)
    terms = {"output": output, "reverse": reverse}
    terms["relations"] = relation_divergence(their_heads, our_heads, batch.position_T)
    if student.config.fabric:
        terms["cluster"] = _cluster_divergence(teacher, theirs.trace, student, ours.trace)
    if student.config.think:
        terms["halting"] = _halting_loss(theirs.trace, ours.trace)
    return Loss(
        mean=torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum(),
        weight=weight_N.sum(),
        num_tokens=len(batch.token_T),
        flops=batch_flops(student.config, batch, ours.trace)
        + batch_flops(teacher.config, batch, theirs.trace, backward=False),
        metrics={name: term.detach() for name, term in terms.items()},
    )


def cluster_masses(model: Transformer, trace: Trace) -> list[Tensor]:
    """Return each layer's probability of each cluster, (T, G), in the first loop."""
    choices = _first_loop(model.config, trace.choices)
    assert model.config.fabric is not None, "only a fabric has clusters"
    clusters = torch.tensor([expert.cluster for expert in model.config.fabric.experts])
    cluster_EG = one_hot(clusters, len(CLUSTERS)).to(choices[0].probability_TE)
    return [choice.probability_TE @ cluster_EG for choice in choices]


def _overheard(model: Transformer, batch: TrainBatch, depth: Depth) -> tuple[Out, Heads]:
    """Run a network, and note what its most telling layer's attention is given."""
    think = model.config.think
    layer = think.first_layer + think.num_layers if think else model.config.num_layers
    memory = Overhearing(model.whole_sequences(batch.bounds_S1), layer=layer - 1)
    out = model(packed_batch(batch, depth if think else None), memory)
    assert memory.heads is not None, "every layer attends"
    return out, memory.heads


def _cluster_divergence(
    teacher: Transformer, theirs: Trace, student: Transformer, ours: Trace
) -> Tensor:
    """Return the mean KL(teacher || student) of the gate and of each layer's cluster masses."""
    assert theirs.cluster_TG is not None and ours.cluster_TG is not None, "both have a fabric"
    their_masses = cluster_masses(teacher, theirs)
    pairs = [(theirs.cluster_TG, ours.cluster_TG)]
    pairs += zip(
        (their_masses[layer] for layer in kept_layers(teacher.config, student.config)),
        cluster_masses(student, ours),
        strict=True,
    )
    parts = []
    for their_TG, our_TG in pairs:
        logarithm = (their_TG + TINY).log() - (our_TG + TINY).log()
        parts.append((their_TG * logarithm).sum(-1).mean())
    return torch.stack(parts).mean()


def _halting_loss(theirs: Trace, ours: Trace) -> Tensor:
    """Return the mean cross entropy of "the next token is hard" and "the answer is settled"."""
    parts = []
    for name in ("hard_logit_T", "settled_logit_T"):
        target_T = getattr(theirs, name).sigmoid()
        parts.append(binary_cross_entropy_with_logits(getattr(ours, name), target_T))
    return torch.stack(parts).mean()


def _first_loop(config: ModelConfig, choices: tuple[Choice, ...]) -> list[Choice]:
    """Return one choice a layer: those of later loops stand between the block's and the coda's."""
    end = config.think.first_layer + config.think.num_layers if config.think else 0
    return [*choices[:end], *choices[len(choices) - (config.num_layers - end) :]]
