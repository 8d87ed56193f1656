"""How well a network answers the teacher's tasks, and at what work. Called by `flash`.

An answer counts when greedy decoding would give it whole, end included. Its work is that of every
token of the question and of the answer, each read once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from heddle.model.batch import Depth
from heddle.model.transformer import Transformer
from heddle.tasks.table import TASKS
from heddle.tasks.task import Example, Split
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import TrainBatch, pack_whole
from heddle.train.forward import batch_flops, exact_depth, packed_batch
from recipes.experiments.flash_teacher import written

# By task the difficulties that are asked: all that were learned.
ASKED: Mapping[str, Sequence[int]] = {
    "cups": (1, 2),
    "copy": (3, 4, 5),
    "key_value_recall": (1,),
}
NEARLY = 0.01  # so little below its best may a network be at the depth that it is measured at


class Exam(NamedTuple):
    """Questions with their answers, the targets; and what share guessing would get right."""

    batch: TrainBatch
    chance: float


class Result(NamedTuple):
    """Of an exam: the share of right answers, FLOPs an answer, and loops of a token."""

    accuracy: float
    flops: float
    loops: float


def exam(name: str, split: Split, tokenizer: Tokenizer, *, num_examples: int) -> Exam:
    """Return held-out questions of a task."""
    examples, documents = [], []
    for index in range(num_examples):
        level = ASKED[name][index % len(ASKED[name])]
        example = TASKS[name].example(split, index, difficulty=level)
        examples.append(example)
        documents.append(written(example, tokenizer, cluster=0, is_whole=False))
    chance = sum(map(_chance, examples)) / num_examples
    return Exam(pack_whole(documents), chance)


def _chance(example: Example) -> float:
    """Return how often someone is right who knows what answers look like, but not which it is."""
    if example.prompt.startswith("cup"):
        return 1 / 5
    if example.prompt.startswith("recall"):
        return 1 / (example.prompt.count("=") - 1)  # one of the values that are listed
    return 0.0


@torch.no_grad()
def answer(model: Transformer, batch: TrainBatch, *, loops: int, auto: bool = False) -> Result:
    """Let a network answer with so many loops, or, `auto`, with as many as it wants up to that."""
    exact = exact_depth(loops, len(batch.token_T))
    depth = Depth(exact.max_T, torch.full_like(exact.auto_T, auto))
    out = model(packed_batch(batch, depth))
    is_right_T = (model.head(out.hidden_TD).argmax(-1) == batch.target_T) | (
        batch.target_T == IGNORED
    )
    lengths = torch.tensor(batch.bounds_S1).diff().tolist()
    right = [bool(part.all()) for part in is_right_T.split(lengths)]
    assert out.trace.loops_T is not None, "teacher and students have a thinking block"
    return Result(
        accuracy=sum(right) / len(right),
        flops=batch_flops(model.config, batch, out.trace, backward=False) / len(right),
        loops=float(out.trace.loops_T.float().mean()),
    )


def fewest_loops(model: Transformer, batch: TrainBatch) -> int:
    """Return the fewest loops at which a network is as good as at its best, nearly."""
    assert model.config.think is not None, "teacher and students have a thinking block"
    depths = range(1, model.config.think.max_loops + 1)
    found = [answer(model, batch, loops=loops).accuracy for loops in depths]
    return next(
        loops
        for loops, accuracy in zip(depths, found, strict=True)
        if accuracy >= max(found) - NEARLY
    )
