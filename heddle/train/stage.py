"""What a stage of training gives the loop: batches to read and a loss to lower.

Written by `pretrain` and its kin, run by `fit`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

Cursor = Mapping[str, Any]  # a place in the data, as JSON


class Loss(NamedTuple):
    """A micro-batch's loss, and what the loop needs to know of the micro-batch.

    Attributes:
        mean: what to lower, differentiable.
        weight: how much it counts beside the step's other micro-batches; for a mean over tokens,
            the sum of their weights, which may be 0.
        num_tokens: tokens read.
        flops: the useful work of forward and backward; what recompute repeats is not counted.
        metrics: detached tensors of any shape; the loop averages them by `weight` over the step and
            all ranks, and logs them.
    """

    mean: Tensor
    weight: Tensor
    num_tokens: int
    flops: float
    metrics: dict[str, Tensor]


class Batches(Protocol):
    """The training data; `data.stream.BatchStream.batches` is one."""

    def __call__(
        self, cursor: Cursor | None, *, rank: int, num_ranks: int
    ) -> Iterator[tuple[Any, Cursor]]:
        """Yield one rank's micro-batches from a place on (None: the start).

        Of every `num_ranks` micro-batches each rank gets the one of its number, with the place
        after them all. Their order depends on nothing but that place.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One objective.

    Attributes:
        batches: the training data.
        loss: moves a micro-batch to the model's device and returns its loss; its last argument is
            the share of the run's steps that are done, from 0 to below 1, and 1 in validation.
        validation: yields the same micro-batches, at least one, whenever called.
        after_step: is given the model and the step's averaged metrics once the parameters have
            moved, for what no gradient moves, as the routers' balance.
        uses_every_parameter: whether each micro-batch gives each trained parameter a gradient.
        tokenizer, chat_template: the texts of a `tokenizer.json` and of a Jinja template, for the
            model that the run leaves; without a tokenizer it speaks as the run's start does.
        report: is given the run's folder once the model is there, to show what it can do.
    """

    batches: Batches
    loss: Callable[[nn.Module, Any, float], Loss]
    validation: Callable[[], Iterator[Any]] | None = None
    after_step: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
    uses_every_parameter: bool = True
    tokenizer: str | None = None
    chat_template: str | None = None
    report: Callable[[Path], None] | None = None
