"""What a trained adaptive model can do at each depth, and which clusters read what: a picture.

Called by recipes once a run is done. It reads the model that the run has left, so what it shows is
what will be served. Answers count when greedy decoding would give them whole, end included.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from heddle.model.batch import Packed, pack
from heddle.model.config import CLUSTERS
from heddle.model.transformer import Transformer
from heddle.tasks.task import Example, Task
from heddle.text.tokenizer import Tokenizer
from heddle.train.chart import Lines, Shares, draw
from heddle.train.forward import batch_flops
from heddle.weights.atomic import new_folder

LOSS_POINTS = 60  # of a loss curve at most; each is a mean over the steps that it stands for


class Level(NamedTuple):
    """How a model does at a difficulty, by the number of loops.

    `accuracy` is the share of right answers, `token_flops` the mean work of a token read.
    """

    difficulty: int
    accuracy: dict[int, float]
    token_flops: dict[int, float]


@torch.no_grad()
def by_loops(
    model: Transformer,
    tokenizer: Tokenizer,
    task: Task,
    *,
    end_id: int,
    difficulty: int,
    loops: Sequence[int],
    num_examples: int,
) -> Level:
    """Answer test examples of one difficulty with each number of loops."""
    examples = list(task.examples("test", difficulty=difficulty, count=num_examples))
    accuracy, flops = {}, {}
    for count in loops:
        right = work = num_tokens = 0
        for packed in _packed(examples, tokenizer, end_id=end_id, loops=count):
            out = model(packed.packed)
            is_right_N = out.logits_NV.argmax(-1) == packed.wanted_N
            pieces = is_right_N.split(packed.sizes)
            right += sum(bool(piece.all()) for piece in pieces)
            num_tokens += len(packed.packed.token_T)
            work += batch_flops(model.config, packed.packed, out.trace, backward=False)
        accuracy[count], flops[count] = right / len(examples), work / num_tokens
    return Level(difficulty, accuracy, flops)


@torch.no_grad()
def cluster_shares(
    model: Transformer,
    tokenizer: Tokenizer,
    tasks: Sequence[tuple[Task, int]],
    *,
    num_examples: int,
) -> dict[str, list[float]]:
    """Return the gate's mean distribution over `CLUSTERS` on test prompts of each task, by name."""
    shares = {}
    for task, difficulty in tasks:
        examples = task.examples("test", difficulty=difficulty, count=num_examples)
        prompts = sorted((tokenizer.encode(example.prompt) for example in examples), key=len)
        cluster_TG = model(pack(prompts)).trace.cluster_TG
        assert cluster_TG is not None, "a network without a fabric has no clusters to show"
        shares[task.name] = cluster_TG.mean(0).tolist()
    return shares


def loss_curve(folder: Path, name: str) -> list[tuple[float, float]]:
    """Return (tokens, figure) from a run's `metrics.jsonl`, averaged to `LOSS_POINTS` points."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures = [json.loads(line) for line in lines]
    known = [(each["tokens"], each[name]) for each in figures if each.get(name) is not None]
    size = -(-len(known) // LOSS_POINTS)
    chunks = (known[first : first + size] for first in range(0, len(known), size))
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def write(
    folder: Path,
    *,
    title: str,
    levels: Sequence[Level],
    shares: Mapping[str, Sequence[float]],
    losses: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Write `report.json`, with every number, and `report.svg` into a new folder."""
    numbers: dict[str, Any] = {
        "title": title,
        "levels": [level._asdict() for level in levels],
        "clusters": CLUSTERS,
        "cluster_shares": shares,
    }
    with new_folder(folder, overwrite=True) as unfinished:
        picture = draw(_panels(levels, shares, losses), title=title)
        (unfinished / "report.svg").write_text(picture, encoding="utf-8")
        (unfinished / "report.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


def _panels(
    levels: Sequence[Level],
    shares: Mapping[str, Sequence[float]],
    losses: Mapping[str, Sequence[tuple[float, float]]],
) -> list[Lines | Shares]:
    return [
        Lines(
            title="Right answers by loops",
            x_label="loops (think.loops)",
            y_label="held-out questions answered",
            lines={f"{level.difficulty} moves": sorted(level.accuracy.items()) for level in levels},
            is_log_x=True,
            is_share=True,
        ),
        Lines(
            title="Right answers by work",
            x_label="FLOPs a token",
            y_label="held-out questions answered",
            lines={
                f"{level.difficulty} moves": [
                    (level.token_flops[loops], level.accuracy[loops])
                    for loops in sorted(level.accuracy)
                ]
                for level in levels
            },
            is_log_x=True,
            is_share=True,
        ),
        Shares(title="Clusters that read each task", columns=CLUSTERS, rows=shares),
        Lines(title="Loss", x_label="tokens", y_label="cross entropy", lines=losses),
    ]


class _Asked(NamedTuple):
    """Examples of equal length, read with their answers: the tokens wanted at `packed.output_N`."""

    packed: Packed
    wanted_N: torch.Tensor
    sizes: list[int]


def _packed(
    examples: Sequence[Example], tokenizer: Tokenizer, *, end_id: int, loops: int
) -> list[_Asked]:
    """Pack examples together with others of their length, which one attention then serves."""
    encoded = []
    for example in examples:
        prompt, answer = (tokenizer.encode(text) for text in (example.prompt, example.answer))
        encoded.append((prompt, [*answer, end_id]))
    encoded.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    asked = []
    for _, members in groupby(encoded, key=lambda pair: len(pair[0]) + len(pair[1])):
        rows: list[int] = []
        wanted: list[int] = []
        sizes, sequences = [], []
        for prompt, answer in members:
            start = sum(map(len, sequences)) + len(prompt) - 1
            rows += range(start, start + len(answer))
            wanted += answer
            sizes.append(len(answer))
            sequences.append(prompt + answer[:-1])
        packed = pack(sequences, loops=loops)._replace(output_N=torch.tensor(rows))
        asked.append(_Asked(packed, torch.tensor(wanted), sizes))
    return asked
