"""Memory: what is still found, how far back, through slots, with pages and without either.

    python -m recipes.experiments.memory --write

The networks of one seed begin as the same one, which has learned on short texts to look back. Each
goes on with longer and longer texts, the same ones, through its own memory.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from filelock import FileLock

from heddle.model.config import MemoryConfig, ModelConfig, RopeConfig, Tier
from heddle.model.cost import forward_flops, keys_attended, total_params
from heddle.model.memory import WholeSequences
from heddle.model.presets import NANO
from heddle.model.transformer import Transformer
from heddle.tasks.task import Split
from heddle.train.data.document import IGNORED
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.pack import TrainBatch
from heddle.train.data.vocabulary import BYTES_ONLY
from heddle.train.fit import FitConfig, fit
from heddle.train.forward import packed_batch
from heddle.train.initial import first_network, train_only
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.run import Run, start
from heddle.train.schedule import Schedule
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from recipes.experiments.chains import byte_tokenizer
from recipes.experiments.experiment import Experiment, Figures, run
from recipes.experiments.held_keys import held
from recipes.experiments.memory_tables import panels, tables
from recipes.experiments.recall_documents import (
    Text,
    facts_to_learn,
    facts_to_test,
    lesson,
    passkey,
    passkey_to_learn,
    questions,
    sayings_to_learn,
)

# The window is of 32 bytes, the block of the byte that is read included. A fact has three bytes:
# slots of four and more do not tell a query which of several to page in.
SLOTS = MemoryConfig(block_tokens=8, sink_tokens=4, window_blocks=4, tiers=(Tier(2, None),))
PAGES = replace(SLOTS, paged_blocks=8)
NO_MASS = -1e4  # added to a slot's logit it takes the slot out of sight
SHORTEST_PASSKEY = 128  # bytes of a training text that holds one
NUM_LENGTHS = 6
COUNTED_AT = 1024  # tokens read, for the work of a token


class Arm(NamedTuple):
    """What a network trains through, and what it is then read through, by name.

    Without `mass` its slots weigh nothing.
    """

    trained: MemoryConfig | None
    readings: dict[str, MemoryConfig | None]
    mass: float = 0.0


ARMS = {
    "exact": Arm(None, {"exact": None, "slots": SLOTS, "pages": PAGES}),
    "slots": Arm(SLOTS, {"slots": SLOTS}),
    "pages": Arm(PAGES, {"pages": PAGES, "slots": SLOTS}),
    "window": Arm(SLOTS, {"window": SLOTS}, mass=NO_MASS),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """How long everything takes.

    Attributes:
        first_steps: of the common beginning, on texts of `first_lengths` bytes.
        num_steps: of each network after it, on texts of `lengths`.
        batch_tokens: about so many a step, of both.
        distances: that are tested, in bytes.
        num_texts: tested at each distance, with facts and again with passkeys.
        held_at: tokens read when keys are counted.
    """

    first_steps: int
    num_steps: int
    batch_tokens: int
    first_lengths: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1152)
    lengths: tuple[int, ...] = (128, 192, 256, 384, 512, 768, 1152)
    distances: tuple[int, ...] = (32, 128, 512, 1024, 2048)
    num_texts: int
    held_at: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)


FORMS = {  # by whether it is the full one
    False: Form(first_steps=5000, num_steps=500, batch_tokens=2304, num_texts=25),
    True: Form(first_steps=8000, num_steps=3000, batch_tokens=4608, num_texts=100),
}


def network(memory: MemoryConfig | None) -> ModelConfig:
    """Return three of nano's layers, without loops and experts."""
    return replace(
        NANO,
        vocab_size=BYTES_ONLY,
        num_layers=3,
        num_kv_heads=NANO.num_heads,
        context_length=8192,
        rope=RopeConfig(base=10_000_000.0),  # what is far back is turned little
        fabric=None,
        think=None,
        memory=memory,
    )


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Training texts, of one length a batch; longer ones open up over `num_ramp` batches.

    Of the `NUM_LENGTHS` longest that are open each is as likely as the others.
    """

    lengths: tuple[int, ...]
    batch_tokens: int
    num_ramp: int
    seed: int

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage, with a tokenizer of one token a byte."""
        stage = pretrain(numbered_batches(self.batch, asdict(self)))
        return replace(stage, tokenizer=byte_tokenizer().json)

    def batch(self, number: int) -> TrainBatch:
        """Return a training batch, which follows from its number."""
        rng = Random(f"{self.seed}/{number}")
        num_open = 1 + round((len(self.lengths) - 1) * min(1.0, number / self.num_ramp))
        length = rng.choice(self.lengths[max(0, num_open - NUM_LENGTHS) : num_open])
        return lesson([self._text(rng, length) for _ in range(self.batch_tokens // length)])

    def _text(self, rng: Random, length: int) -> Text:
        if length >= SHORTEST_PASSKEY and rng.random() < 1 / 3:
            return passkey_to_learn(rng, length, seed=self.seed)
        return rng.choice((sayings_to_learn, facts_to_learn))(rng, length)


def beginning(seed: int, form: Form, home: Path) -> Checkpoint:
    """Return a seed's common first model; whoever comes first trains it."""
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f"beginning-{seed}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "model").exists():
            start(
                Run(
                    folder=folder,
                    model=network(None),
                    objective=Texts(
                        lengths=form.first_lengths,
                        batch_tokens=form.batch_tokens,
                        num_ramp=form.first_steps // 2,
                        seed=seed,
                    ),
                    optimiser=_optimiser(3e-3, form.first_steps),
                    fit=FitConfig(num_steps=form.first_steps, seed=seed),
                ),
                resume=True,
            )
    return open_checkpoint(folder)


def trained(arm: Arm, seed: int, form: Form, folder: Path) -> tuple[Transformer, Figures]:
    """Return an arm's network after its training, and what the training says of itself."""
    first = beginning(seed, form, folder.parent)
    model = first_network(network(arm.trained), first, seed=seed)
    # The mass of slots stays as it is: a mask without gradient is twice as fast on a CPU.
    train_only(model, ("*.weight", "*.salience") if arm.trained else ())
    for name, parameter in model.named_parameters():
        if name.endswith("pool.mass"):
            torch.nn.init.constant_(parameter, arm.mass)
    texts = Texts(
        lengths=form.lengths,
        batch_tokens=form.batch_tokens,
        num_ramp=form.num_steps // 2,
        seed=seed,
    )
    result = fit(
        model,
        texts.stage(None),
        optimiser=_optimiser(1e-3, form.num_steps),
        config=FitConfig(num_steps=form.num_steps, seed=seed),
        folder=folder,
        resume=True,
        configuration={},
    )
    return model.eval(), {name: result.figures[name] for name in ("tokens", "loss")}


@torch.no_grad()
def recall(
    model: Transformer, memory: MemoryConfig | None, texts: Sequence[Text], *, whole: bool
) -> float:
    """Return the share of bytes asked for, or of texts all of whose bytes, that are known."""
    right = []
    for text in texts:
        batch = questions([text])
        rows = (batch.target_T != IGNORED).nonzero()[:, 0]
        packed = packed_batch(batch)._replace(output_N=rows)
        out = model(packed, WholeSequences(batch.bounds_S1, config=memory))
        is_right_N = out.logits_NV.argmax(-1) == batch.target_T[rows]
        right += [is_right_N.all()] if whole else is_right_N.tolist()
    return sum(map(float, right)) / len(right)


def test_texts(kind: str, split: Split, distance: int, num: int) -> list[Text]:
    """Return texts that no training shows, the same ones for all networks."""
    if kind == "passkey":
        return [passkey(split, index, distance) for index in range(num)]
    return [facts_to_test(Random(f"{split}/{distance}/{index}"), distance) for index in range(num)]


def trial(arm: Arm, seed: int, full: bool, folder: Path, split: Split = "test") -> Figures:
    """Train one network and read texts with it."""
    form = FORMS[full]
    model, figures = trained(arm, seed, form, folder)
    if arm.trained is None:  # untrained poolers are plain means
        exact, model = model, Transformer(network(SLOTS)).eval()
        model.load_state_dict(exact.state_dict(), strict=False)
    found = {
        reading: {
            kind: {
                str(distance): recall(
                    model,
                    memory,
                    test_texts(kind, split, distance, form.num_texts),
                    whole=kind == "passkey",
                )
                for distance in form.distances
            }
            for kind in ("facts", "passkey")
        }
        for reading, memory in arm.readings.items()
    }
    return figures | {"recall": found, "work": work(arm), "held": counted(arm, form)}


def work(arm: Arm) -> Figures:
    """Return an arm's parameters, and the FLOPs of a token behind `COUNTED_AT` others."""
    config = network(arm.trained)
    attended = keys_attended(config, first=COUNTED_AT, num=1)
    flops = forward_flops(config, num_tokens=1, num_attended=attended)
    return {"params": total_params(config), "flops": flops}


def counted(arm: Arm, form: Form) -> Figures:
    """Return what attention holds behind so many tokens, and how many slots are designed."""
    config = network(arm.trained)
    model = first_network(config, None, seed=0).eval()
    token_T = torch.randint(BYTES_ONLY, (max(form.held_at),))
    counts = {}
    for context in form.held_at:
        counts[str(context)] = held(model, token_T[:context])._asdict() | {
            "num_slots": config.memory.num_slots(context) if config.memory else 0
        }
    return counts


def _optimiser(rate: float, num_steps: int) -> OptimiserConfig:
    schedule = Schedule(warmup_steps=20, decay_steps=num_steps // 2, decay="linear")
    return OptimiserConfig(learning_rate=rate, weight_decay=0.01, schedule=schedule)


EXPERIMENT = Experiment(
    name="memory",
    title="Memory: what is found how far back",
    arms={name: partial(trial, arm) for name, arm in ARMS.items()},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
