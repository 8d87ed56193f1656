"""Questions that are worked out step by step, with a label at every step: what loops are for.

A training batch has one task and one number of steps: all its sequences are equally long, and their
depth is drawn around the steps. Used by `depth` and `loop_cache`.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from heddle.model.batch import Depth, Out
from heddle.model.config import MAX_LOOPS
from heddle.model.transformer import Transformer
from heddle.tasks.table import find
from heddle.tasks.task import Split
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED, cluster_number, encode_example
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.pack import TrainBatch, pack_whole
from heddle.train.data.vocabulary import END_TOKEN, train_tokenizer
from heddle.train.forward import batch_flops, exact_depth
from heddle.train.stage import Batches

SHORTEST = 2
NUM_TEXT = 4  # tokens before the first step: three letters and the start
NUM_UNSTEPPED = NUM_TEXT + 3  # and "=", the answer, its end
EASY_EVERY = 5  # one batch of so many is read in one loop, for what needs no thought
LATE = 0.6  # of a run
LATE_BACKPROP_LOOPS = 4


@dataclass(frozen=True, kw_only=True)
class Chains:
    """A task's training batches, by their number.

    Attributes:
        task: its name in the table.
        longest: steps of a question.
        num_ramp: batches until the longest are open.
        batch_tokens: about so many.
        seed: of everything that is drawn.
    """

    task: str
    longest: int
    num_ramp: int
    batch_tokens: int
    seed: int

    def batch(self, number: int) -> TrainBatch:
        """Return one batch."""
        random = np.random.default_rng((self.seed, number))
        top = max(SHORTEST, round(self.longest * min(1.0, (number + 1) / self.num_ramp)))
        steps = int(random.integers(max(SHORTEST, top // 3), top, endpoint=True))
        num = self.batch_tokens // (steps + NUM_UNSTEPPED)
        first = number * self.batch_tokens
        batch = questions(self.task, "train", steps, range(first, first + num), seed=self.seed)
        return _without_steps(batch) if number % EASY_EVERY == EASY_EVERY - 1 else batch

    def batches(self) -> Batches:
        """Return all of them, as a stage wants them."""
        return numbered_batches(self.batch, asdict(self))


def questions(
    name: str, split: Split, steps: int, indices: Iterable[int], *, seed: int = 0
) -> TrainBatch:
    """Return a task's questions of so many steps, with every label, and the text's next tokens."""
    task, tokenizer = find(name), byte_tokenizer()
    end_id = tokenizer.control_tokens[END_TOKEN]
    cluster = cluster_number(task.cluster, where=name)
    examples = (task.example(split, index, seed=seed, difficulty=steps) for index in indices)
    batch = pack_whole(
        [
            encode_example(example, tokenizer, end_id=end_id, cluster=cluster, dense=True)
            for example in examples
        ]
    )
    return batch._replace(
        target_T=torch.where(batch.position_T < NUM_TEXT, batch.token_T.roll(-1), batch.target_T)
    )


@cache
def byte_tokenizer() -> Tokenizer:
    """Return the tokenizer of one token a byte."""
    return Tokenizer(train_tokenizer([]))


def _without_steps(batch: TrainBatch) -> TrainBatch:
    """Return a batch in which only what needs no thought is to be learned."""
    length = batch.bounds_S1[1]
    is_easy_T = (batch.position_T < NUM_TEXT) | (batch.position_T == length - 2)
    return batch._replace(target_T=batch.target_T.masked_fill(~is_easy_T, IGNORED))


def training_depth(batch: TrainBatch, progress: float) -> Depth:
    """Return one loop where no step is to be learned, else one for each step or up to two more.

    Late in a run one batch of three takes far more, so that these change nothing, and one gives
    each token about the loops that its own step needs, as tokens do that choose them.
    """
    num_tokens, length = len(batch.token_T), batch.bounds_S1[1]
    steps = length - NUM_UNSTEPPED
    if batch.target_T[NUM_TEXT] == IGNORED:
        return exact_depth(1, num_tokens)
    lesson = torch.randint(3, ()) if progress > LATE else 0
    if lesson == 1:
        loops = int(torch.randint(steps, MAX_LOOPS + 1, ()))
        return exact_depth(loops, num_tokens, backprop_loops=LATE_BACKPROP_LOOPS)
    if lesson == 2:
        needed_T = own_steps(batch) + torch.randint(4, (num_tokens,))
        return exact_depth(1, num_tokens)._replace(
            max_T=torch.where(own_steps(batch) > 0, needed_T, 1)
        )
    return exact_depth(steps + int(torch.randint(3, ())), num_tokens)


def own_steps(batch: TrainBatch) -> Tensor:
    """Return how many steps each token must follow, "=" one more than the last; text none."""
    is_text_T = (batch.position_T < NUM_TEXT) | (batch.position_T >= batch.bounds_S1[1] - 2)
    return (batch.position_T - NUM_TEXT + 1).masked_fill(is_text_T, 0)


class Answered(NamedTuple):
    """The share of questions whose answer and end come right; mean loops and FLOPs of a token."""

    share: float
    loops: float
    flops: float
    num_tokens: int


@torch.no_grad()
def answered(model: Transformer, batch: TrainBatch, out: Out) -> Answered:
    """Return how a batch of equally long questions was answered, each after its own prompt."""
    is_right_T = model.head(out.hidden_TD).argmax(-1) == batch.target_T
    is_right_ST = is_right_T.unflatten(0, (len(batch.bounds_S1) - 1, -1))
    loops_T = out.trace.loops_T
    return Answered(
        share=float(is_right_ST[:, -3:-1].all(1).float().mean()),  # the last token predicts nothing
        loops=1.0 if loops_T is None else float(loops_T.float().mean()),
        flops=batch_flops(model.config, batch, out.trace, backward=False) / len(batch.token_T),
        num_tokens=len(batch.token_T),
    )


def same_loops_elsewhere(loops_T: Tensor, *, seed: int) -> Depth:
    """Return a depth that gives the same loops to other tokens, drawn at random."""
    order_T = torch.randperm(len(loops_T), generator=torch.Generator().manual_seed(seed))
    return Depth(loops_T[order_T], torch.zeros_like(loops_T, dtype=torch.bool))
