"""A teacher writes the text that its student learns from, so that no other data are needed.

Texts begin in strata that take turns, each at several temperatures (LLM-QAT, Liu et al. 2023,
arXiv:2305.17888, writes from single tokens; left to itself a model keeps to what it likes best).
Equal texts are kept once.

    text-HASH/{train,validation}    shards, once all is written; the hash is of what decides them
    text-HASH.rounds/00000 ...      shards of each round so far, which a second call goes on from

Called by `distill`.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from heddle.errors import ConfigError, DataError
from heddle.model.transformer import Transformer
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import Document
from heddle.train.data.shard_writer import ShardWriter
from heddle.train.data.shards import MANIFEST, Manifest, Shards
from heddle.train.lockstep import write_on
from heddle.train.strata import Stratum, open_strata, task_levels, task_strata, unopened
from heddle.weights.atomic import new_folder
from heddle.weights.contents import Checkpoint

LICENCE = "as the teacher's weights"
MAX_IDLE_ROUNDS = 3  # rounds without a new text after which there is no hope


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What a teacher writes.

    Attributes:
        num_tokens: of different texts at least, prompts included.
        max_tokens: of one text.
        temperatures: taken in turn.
        tasks: whose questions to answer, in place of openings, for a teacher that knows only them:
            NAME, or NAME:FROM-TO for some of its difficulties.
        openings: whether texts also begin with openings and questions of each cluster; if not, and
            without tasks, all begin with nothing.
        texts_per_round: written side by side, and saved together.
        validation_share: of all texts, chosen by their hash.
        seed: of prompts and draws.
    """

    num_tokens: int = 1_000_000
    max_tokens: int = 256
    temperatures: tuple[float, ...] = (0.7, 1.0, 1.3)
    tasks: tuple[str, ...] = ()
    openings: bool = True
    texts_per_round: int = 96
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if min(self.num_tokens, self.texts_per_round) < 1 or self.max_tokens < 2:
            raise ConfigError(
                "text: num_tokens and texts_per_round must be at least 1, max_tokens at least 2"
            )
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ConfigError("text: temperatures must be above 0, and there must be one")
        if not 0 < self.validation_share < 1:
            raise ConfigError(
                f"text: validation_share must lie between 0 and 1, not {self.validation_share}"
            )
        for task in self.tasks:
            task_levels(task)


class SelfText:
    """The text of one teacher, written or to be written inside a folder."""

    def __init__(self, inside: Path, teacher: Checkpoint, config: TextConfig, *, loops: int):
        """Name the text's folder. Raises ConfigError for what the teacher cannot write."""
        if config.max_tokens > teacher.config.context_length:
            raise ConfigError(
                f"text: max_tokens ({config.max_tokens}) is more than the teacher's context of "
                f"{teacher.config.context_length} tokens"
            )
        if not teacher.eos_ids:
            raise ConfigError(f"{teacher.path}: the teacher has no token that ends a text")
        self._teacher, self._config, self._loops = teacher, config, loops
        tokenizer = Tokenizer(teacher.tokenizer_json)
        if config.tasks:
            self._strata = task_strata(config.tasks, teacher, tokenizer, seed=config.seed)
        elif config.openings:
            self._strata = open_strata(teacher, tokenizer, seed=config.seed)
        else:
            self._strata = [unopened(teacher, tokenizer, seed=config.seed)]
        self._turns(0)
        decides = repr((config, loops, teacher.name, teacher.size_bytes, teacher.config))
        name = f"text-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"
        self.folder, self._rounds = inside / name, inside / f"{name}.rounds"

    def write(self, model: Transformer, *, tell: Callable[[int], None]) -> None:
        """Write what is missing; `tell` is given the number of tokens after each round.

        Raises DataError when the teacher only repeats itself, StorageError when writing fails.
        """
        if self.folder.exists():
            return
        seen: set[tuple[int, ...]] = set()
        num_tokens = number = num_idle = 0
        while num_tokens < self._config.num_tokens:
            folder = self._rounds / f"{number:05}"
            if not folder.exists():
                self._write_round(folder, model, number, seen)
            new = [tuple(document.token_N.tolist()) for document in _documents(folder)]
            seen.update(new)
            num_tokens += sum(map(len, new))
            number, num_idle = number + 1, 0 if new else num_idle + 1
            tell(num_tokens)
            if num_idle == MAX_IDLE_ROUNDS:
                raise DataError(
                    f"the teacher repeats itself: {len(seen)} different texts of {num_tokens} "
                    "tokens in all are what came; lower text.num_tokens, or raise "
                    "text.temperatures"
                )
        with new_folder(self.folder) as unfinished:
            self._collect(unfinished, number)
        shutil.rmtree(self._rounds)

    def _write_round(
        self, target: Path, model: Transformer, number: int, seen: set[tuple[int, ...]]
    ) -> None:
        """Let the teacher write side by side; keep what is new."""
        config, turns = self._config, self._turns(number)
        texts = write_on(
            model,
            [stratum.prompt(turn) for turn, stratum in turns],
            temperatures=[self._temperature(turn) for turn, _ in turns],
            max_tokens=config.max_tokens,
            end_ids=self._teacher.eos_ids,
            loops=self._loops,
            generator=torch.Generator(model.embed.weight.device).manual_seed(
                config.seed << 32 | number
            ),
        )
        kept = {tuple(text): stratum for (_, stratum), text in zip(turns, texts, strict=True)}
        with new_folder(target) as folder:
            writer = self._writer(folder)
            for text, stratum in kept.items():
                if text not in seen:
                    token_N = np.array(text)
                    writer.add(
                        token_N, cluster=stratum.cluster, source=stratum.name, licence=LICENCE
                    )
            writer.finish()

    def _turns(self, number: int) -> list[tuple[int, Stratum]]:
        """Return whose turn it is in a round, and how often it was before.

        Raises ConfigError when a prompt leaves no room.
        """
        config, strata = self._config, self._strata
        first = number * config.texts_per_round
        places = [divmod(i, len(strata)) for i in range(first, first + config.texts_per_round)]
        turns = [(turn, strata[place]) for turn, place in places]
        longest = max(len(stratum.prompt(turn)) for turn, stratum in turns)
        if longest >= config.max_tokens:
            raise ConfigError(
                f"text: a prompt is {longest} tokens long, so that max_tokens "
                f"({config.max_tokens}) leaves no room for an answer"
            )
        return turns

    def _temperature(self, turn: int) -> float:
        """Take temperatures in turn, shifted each time, so that each meets every difficulty."""
        num = len(self._config.temperatures)
        return self._config.temperatures[(turn + turn // num) % num]

    def _collect(self, target: Path, num_rounds: int) -> None:
        """Share all rounds' texts out to the two sides, by their hash."""
        for side in ("train", "validation"):
            (target / side).mkdir()
        train, held = (self._writer(target / side) for side in ("train", "validation"))
        for number in range(num_rounds):
            for document in _documents(self._rounds / f"{number:05}"):
                digest = hashlib.blake2b(document.token_N.tobytes(), digest_size=8).digest()
                share = int.from_bytes(digest, "little") / 2**64
                writer = held if share < self._config.validation_share else train
                writer.add(
                    document.token_N,
                    cluster=document.cluster,
                    source=self._teacher.name,
                    licence=LICENCE,
                )
        if not (train.finish().num_documents and held.finish().num_documents):
            raise DataError(
                "text: too few different texts to hold some out: raise text.num_tokens or "
                "text.validation_share"
            )

    def _writer(self, folder: Path) -> ShardWriter:
        return ShardWriter(
            folder,
            self._teacher.tokenizer_json,
            vocab_size=self._teacher.config.vocab_size,
            end_id=self._teacher.eos_ids[0],
            whole=True,
        )


def _documents(folder: Path) -> Iterator[Document]:
    if Manifest.read(folder / MANIFEST).num_documents:
        shards = Shards(folder)
        yield from map(shards.read, range(shards.num_documents))
