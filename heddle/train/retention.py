"""What a student has kept of its teacher: on held-out text, in its routes, and on tasks.

Called by `heddle distill` at the end. Shares come with 95% intervals: Wilson's for accuracies
(Wilson 1927), and for their ratio one from resampled examples (Efron 1979).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heddle.errors import ConfigError
from heddle.model.batch import Trace
from heddle.model.config import CLUSTERS
from heddle.model.transformer import Transformer
from heddle.tasks.table import find
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import TrainBatch
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.imitation import cluster_masses
from heddle.train.lockstep import write_on
from heddle.train.losses import divergence, sum_by_chunk
from heddle.train.strata import Asker, task_levels
from heddle.train.student import kept_layers
from heddle.weights.contents import Checkpoint

NORMAL_95 = 1.959964  # the normal distribution's 97.5th percentile
NUM_RESAMPLED = 2000


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """What to measure at the end.

    Attributes:
        tasks: NAME or NAME:FROM-TO; empty takes those of the text.
        num_examples: of each task's test split.
        texts_side_by_side: answered at once.
    """

    tasks: tuple[str, ...] = ()
    num_examples: int = 200
    texts_side_by_side: int = 100

    def __post_init__(self):
        if min(self.num_examples, self.texts_side_by_side) < 1:
            raise ConfigError("retention: num_examples and texts_side_by_side must be at least 1")
        for task in self.tasks:
            task_levels(task)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A teacher and its student, and how deep both are to think."""

    teacher: Transformer
    student: Transformer
    teacher_loops: int
    student_loops: int


@torch.no_grad()
def on_text(pair: Pair, batches: Iterable[TrainBatch]) -> dict[str, float]:
    """Compare the outputs, and the clusters that the routers prefer, on held-out text.

    `routing_chance` is the agreement of two networks that prefer each cluster as often as these do
    but know nothing of each other.
    """
    sums = torch.zeros(4)
    weight = num_tokens = 0
    routes = []
    for batch in batches:
        batch = batch.to(pair.teacher.embed.weight.device)
        num = len(batch.token_T)
        theirs, ours = (
            model(packed_batch(batch, exact_depth(loops, num) if model.config.think else None))
            for model, loops in (
                (pair.teacher, pair.teacher_loops),
                (pair.student, pair.student_loops),
            )
        )
        rows = (batch.target_T != IGNORED).nonzero()[:, 0]
        sums += sum_by_chunk(
            lambda *chunk: _compared(pair, *chunk),
            theirs.hidden_TD[rows],
            ours.hidden_TD[rows],
            batch.target_T[rows],
            size=4,
        ).cpu()
        weight += len(rows)
        num_tokens += num
        if pair.student.config.fabric:
            routes.append(_routes(pair, theirs.trace, ours.trace))
    kl, agreed, their_loss, our_loss = (sums / weight).tolist()
    found = {
        "num_tokens": num_tokens,
        "kl": kl,
        "top1_agreement": agreed,
        "teacher_perplexity": exp(their_loss),
        "student_perplexity": exp(our_loss),
        "perplexity_ratio": exp(our_loss - their_loss),
    }
    return found | (_routing(torch.cat(routes, dim=1)) if routes else {})


def on_task(
    pair: Pair, checkpoint: Checkpoint, task: str, config: RetentionConfig, *, max_tokens: int
) -> dict[str, Any]:
    """Let both answer the same held-out questions, always with the likeliest token."""
    name, difficulties = task_levels(task)
    asked = find(name)
    tokenizer = Tokenizer(checkpoint.tokenizer_json)
    asker = Asker(checkpoint, tokenizer)
    examples = [
        asked.example("test", index, difficulty=difficulties[index % len(difficulties)])
        for index in range(config.num_examples)
    ]
    prompts = [asker.task(asked, example) for example in examples]
    scores = []
    for model, loops in ((pair.teacher, pair.teacher_loops), (pair.student, pair.student_loops)):
        texts: list[list[int]] = []
        for first in range(0, len(prompts), config.texts_side_by_side):
            some = prompts[first : first + config.texts_side_by_side]
            texts += write_on(
                model,
                some,
                temperatures=[0.0] * len(some),
                max_tokens=max_tokens,
                end_ids=checkpoint.eos_ids,
                loops=loops,
            )
        scores.append(
            [
                asked.score(example, tokenizer.decode(text[len(prompt) :]))
                for example, prompt, text in zip(examples, prompts, texts, strict=True)
            ]
        )
    return {"task": task, "n": len(examples)} | compared_scores(*scores)


def compared_scores(teacher: Sequence[float], student: Sequence[float]) -> dict[str, Any]:
    """Return both accuracies and the share that the student keeps, null if the teacher has none."""
    theirs, ours = np.array(teacher), np.array(student)
    found: dict[str, Any] = {"retention": None, "retention_low": None, "retention_high": None}
    if theirs.sum():
        drawn = np.random.default_rng(0).integers(len(theirs), size=(NUM_RESAMPLED, len(theirs)))
        sums = theirs[drawn].sum(1)
        ratios = ours[drawn].sum(1)[sums > 0] / sums[sums > 0]
        low, high = np.percentile(ratios, [2.5, 97.5])
        found = {
            "retention": float(ours.sum() / theirs.sum()),
            "retention_low": float(low),
            "retention_high": float(high),
        }
    for name, scores in (("teacher", theirs), ("student", ours)):
        low, high = wilson(float(scores.mean()), len(scores))
        found |= {
            f"{name}_accuracy": float(scores.mean()),
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share of n trials."""
    z2 = NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _compared(pair: Pair, their_ND: Tensor, our_ND: Tensor, target_N: Tensor) -> Tensor:
    """Sum divergence, agreement and both losses over rows."""
    their_NV, our_NV = pair.teacher.head(their_ND), pair.student.head(our_ND)
    agree_N = their_NV.argmax(-1) == our_NV.argmax(-1)
    losses = [
        torch.nn.functional.cross_entropy(logits, target_N, reduction="sum")
        for logits in (their_NV, our_NV)
    ]
    return torch.stack([divergence(their_NV, our_NV).sum(), agree_N.sum().float(), *losses])


def _routes(pair: Pair, theirs: Trace, ours: Trace) -> Tensor:
    """Return the clusters that the teacher's kept layers and the student's prefer, (2, L, T)."""
    their_masses = cluster_masses(pair.teacher, theirs)
    kept = kept_layers(pair.teacher.config, pair.student.config)
    masses = ([their_masses[layer] for layer in kept], cluster_masses(pair.student, ours))
    return torch.stack([torch.stack(each).argmax(-1) for each in masses])


def _routing(route_2LT: Tensor) -> dict[str, float]:
    theirs_LT, ours_LT = route_2LT
    share_2LG = torch.stack(
        [(route_2LT == cluster).float().mean(-1) for cluster in range(len(CLUSTERS))], -1
    )
    return {
        "routing_agreement": float((theirs_LT == ours_LT).float().mean()),
        "routing_chance": float(share_2LG.prod(0).sum(-1).mean()),
    }
