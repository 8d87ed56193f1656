"""From nothing to a model whose thinking shows, in five minutes on two cores of a CPU.

    heddle train cpu_demo
    heddle serve runs/cpu_demo

One layer of the preset `nano`, looped, learns where a ball is after n moves of five cups. It finds
that one move after the other: with as many loops as moves it answers right, with one it guesses.
Sums and recall of pairs, at one loop, give other clusters something to read; there are too few to
learn them well. In the end it is asked what no training example has asked, at 1 to 32 loops:
`runs/cpu_demo/report` has the picture and the numbers.

What it builds on: a label at every move, short chains first, about one loop a move, a state that is
written like an input. docs/training.md says which settings were tried without, and what happened.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from heddle.model.batch import Depth
from heddle.model.config import ModelConfig, RopeConfig
from heddle.model.presets import NANO, cluster_experts
from heddle.tasks.table import TASKS
from heddle.tasks.task import Split
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import Document, cluster_number, encode_example
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.pack import TrainBatch, pack_whole
from heddle.train.data.vocabulary import BYTES_ONLY, END_TOKEN, train_tokenizer
from heddle.train.fit import FitConfig
from heddle.train.forward import exact_depth
from heddle.train.initial import first_network
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.report import by_loops, cluster_shares, loss_curve, write
from heddle.train.run import Run
from heddle.train.saving import SavingConfig
from heddle.train.schedule import Schedule
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint, open_checkpoint

DEEP = "cups"
SHALLOW = {"addition": range(1, 3), "key_value_recall": range(1, 5)}  # by difficulty; one loop
NUM_UNMOVED = 7  # tokens of a cups document beside its moves: "cup3", "=", the answer and its end
CHAT_TEMPLATE = "{{ messages[-1]['content'] }}"  # it reads the last message, as it is


@dataclass(frozen=True, kw_only=True)
class Cups:
    """Micro-batches of cups, and in between one of a task that needs no depth.

    Attributes:
        longest: moves of a training example.
        num_ramp: micro-batches until the longest are open.
        microbatch_tokens: about so many.
        shallow_every: so many micro-batches, one is of another task.
        tested: moves of the report's questions; num_tested: of each.
        loops: that the report tries.
    """

    longest: int = 12
    num_ramp: int = 1000
    microbatch_tokens: int = 320
    shallow_every: int = 4
    tested: tuple[int, ...] = (4, 8, 12, 16)
    num_tested: int = 100
    loops: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    seed: int = 0

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage, with a tokenizer of one token a byte."""
        tokenizer = Tokenizer(train_tokenizer([]))
        data = {
            name: getattr(self, name)
            for name in ("longest", "num_ramp", "microbatch_tokens", "shallow_every", "seed")
        }
        stage = pretrain(
            numbered_batches(partial(self._batch, tokenizer, "train"), data),
            validation=lambda: (
                self._batch(tokenizer, "validation", number) for number in range(self.shallow_every)
            ),
            depth=self.depth,
        )
        return replace(
            stage, tokenizer=tokenizer.json, chat_template=CHAT_TEMPLATE, report=self.report
        )

    def depth(self, batch: TrainBatch, progress: float) -> Depth:
        """Return a loop for each move, or up to two more, in validation one more; else one loop."""
        loops = 1
        if batch.cluster_T[0] == cluster_number(TASKS[DEEP].cluster, where=DEEP):
            more = 1 if progress == 1 else int(torch.randint(-1, 3, ()))
            loops = max(1, batch.bounds_S1[1] - NUM_UNMOVED + more)
        return exact_depth(loops, len(batch.token_T))

    def report(self, folder: Path) -> None:
        """Ask the finished model, and write the picture."""
        opened = open_checkpoint(folder)
        model = first_network(opened.config, opened, seed=0).eval()
        tokenizer = Tokenizer(opened.tokenizer_json)
        levels = [
            by_loops(
                model,
                tokenizer,
                TASKS[DEEP],
                end_id=_end_id(tokenizer),
                difficulty=moves,
                loops=self.loops,
                num_examples=self.num_tested,
            )
            for moves in self.tested
        ]
        asked = [(TASKS[DEEP], self.tested[0])]
        asked += [(TASKS[name], levels[-1]) for name, levels in SHALLOW.items()]
        write(
            folder / "report",
            title="Five cups and a ball: what loops are for",
            levels=levels,
            shares=cluster_shares(model, tokenizer, asked, num_examples=self.num_tested),
            losses={"training": loss_curve(folder, "cross_entropy")},
        )

    def _batch(self, tokenizer: Tokenizer, split: Split, number: int) -> TrainBatch:
        """Return examples of one task and difficulty, which follow from split and number."""
        random = np.random.default_rng((self.seed, split == "train", number))
        turn, place = divmod(number, self.shallow_every)
        if place == self.shallow_every - 1:
            name = list(SHALLOW)[turn % len(SHALLOW)]
            level = int(random.choice(SHALLOW[name]))
        else:
            open_moves = self.longest * min(1.0, (number + 1) / self.num_ramp)
            top = self.longest if split != "train" else max(2, round(open_moves))
            name, level = DEEP, int(random.integers(max(1, top // 3), top, endpoint=True))
        task = TASKS[name]
        cluster = cluster_number(task.cluster, where=name)
        documents: list[Document] = []
        while sum(len(document.token_N) for document in documents) < self.microbatch_tokens:
            example = task.example(
                split, number * self.microbatch_tokens + len(documents), difficulty=level
            )
            documents.append(
                encode_example(
                    example, tokenizer, end_id=_end_id(tokenizer), cluster=cluster, dense=True
                )
            )
        return pack_whole(documents)


def _end_id(tokenizer: Tokenizer) -> int:
    return tokenizer.control_tokens[END_TOKEN]


def demo_model() -> ModelConfig:
    """Return nano with one layer, which is the thinking block, and a third of its experts' widths.

    With experts as wide as nano's the same run ends before the loop is learned.
    """
    assert NANO.think and NANO.fabric, "nano thinks, and has experts"
    return replace(
        NANO,
        vocab_size=BYTES_ONLY,
        num_layers=1,
        num_kv_heads=NANO.num_heads,
        qk_norm=True,
        rope=RopeConfig(base=100.0),  # the move before this one matters, and no other
        fabric=replace(NANO.fabric, experts=cluster_experts(16)),
        think=replace(NANO.think, first_layer=0, num_layers=1, adapter_rank=64),
    )


def cpu_demo() -> Run:
    """Five minutes on two cores."""
    return Run(
        folder=Path("runs/cpu_demo"),
        model=demo_model(),
        objective=Cups(),
        optimiser=OptimiserConfig(
            learning_rate=5e-3,
            schedule=Schedule(warmup_steps=20, decay_steps=800, decay="linear"),
        ),
        fit=FitConfig(num_steps=2000, saving=SavingConfig(every_steps=500)),
    )
