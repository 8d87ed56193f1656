"""Chats to learn thinking from, made on the spot: sums, chains of steps, and the model's own talk.

    python -m recipes.data.think_data data

writes `sums.jsonl`, `chains.jsonl` and `talk.jsonl`, for `heddle prepare`. A chat of the first two
holds several questions, each with its answer: where an answer is three digits long, the template
and its system message would else be most of what is read. `recipes/think_sums.py` reads them.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from heddle.cli.download import fetched
from heddle.cli.local_server import loaded, serving
from heddle.client.http import HttpModel
from heddle.config import DEFAULT_MODEL
from heddle.engine.config import EngineConfig
from heddle.tasks.table import find
from heddle.tasks.task import Task

LICENCE = "Apache-2.0"
SUMS = ("addition", "subtraction", "multiplication")
SUM_LEVELS = range(1, 7)
CHAINS = ("modular_chain", "weekday")
CHAIN_STEPS = range(1, 9)
MAX_ANSWER_TOKENS = 96
OWN_CHATS = Path(__file__).parent / "own_chats.jsonl"

TOPICS = (
    *("rain", "bread", "bicycles", "the moon", "a library", "honey", "trains", "mountains"),
    *("a garden", "the sea", "clocks", "music", "coffee", "dogs", "winter", "maps", "glass"),
    *("bridges", "a good night's sleep", "chess", "volcanoes", "languages", "money", "paper"),
    *("photography", "friendship", "electricity", "football", "the heart", "deserts", "wool"),
    *("a job interview", "computers", "tea", "the wind", "painting", "trees", "salt", "stars"),
)
ASKED = (
    "What is special about {}?",
    "Write three sentences about {}.",
    "Tell me a short story about {}.",
    "Why do people care about {}?",
    "Give me two tips that have to do with {}.",
    "How would you explain {} to a child?",
    "What should I read or learn first about {}?",
    "Write a polite e-mail of four sentences about {}.",
    "List five words that go with {} and say why.",
    "What could go wrong with {}?",
    "What did people long ago think about {}?",
    "Summarise in one sentence what matters about {}.",
)


def quizzes(tasks: Sequence[Task], levels: Sequence[int], count: int, seed: int) -> Iterator[Any]:
    """Yield chats of six to ten questions of the training split, tasks and levels mixed."""
    rng = Random(seed)
    taken = dict.fromkeys(range(len(tasks)), 0)
    for _ in range(count):
        messages = []
        for _ in range(rng.randint(6, 10)):
            number = rng.randrange(len(tasks))
            task, level = tasks[number], rng.choice(levels)
            level = max(level, task.difficulties[0])
            example = task.example("train", taken[number], seed=seed, difficulty=level)
            taken[number] += 1
            messages += _turn(task.asked(example), example.answer)
        yield messages


def talk(num_answers: int) -> Iterator[Any]:
    """Yield the default model's own chats, and its answers to questions of everyday life."""
    with OWN_CHATS.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["messages"]
    questions = [form.format(topic) for topic, form in product(TOPICS, ASKED)] * num_answers
    with (
        loaded(fetched(DEFAULT_MODEL), EngineConfig()) as engine,
        serving(engine) as url,
        HttpModel(url) as model,
        ThreadPoolExecutor(8) as pool,
    ):

        def answer(numbered: tuple[int, str]) -> str:
            seed, question = numbered
            asked = [{"role": "user", "content": question}]
            reply = model.chat(asked, temperature=0.8, seed=seed, max_tokens=MAX_ANSWER_TOKENS)
            return reply.text

        for question, text in zip(questions, pool.map(answer, enumerate(questions)), strict=True):
            if text.strip():
                yield _turn(question, text)


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _write(path: Path, chats: Iterator[Any], cluster: str) -> None:
    num_chats = 0
    with path.open("w", encoding="utf-8") as file:
        for messages in chats:
            row = {"messages": messages, "cluster": cluster, "licence": LICENCE}
            file.write(json.dumps(row) + "\n")
            num_chats += 1
    typer.echo(f"{path}: {num_chats:,} chats")


def main(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    num_sums: Annotated[int, typer.Option("--sums", help="Chats.", min=1)] = 4000,
    num_chains: Annotated[int, typer.Option("--chains", help="Chats.", min=1)] = 1500,
    num_answers: Annotated[
        int, typer.Option("--talk", help="Answers to each question.", min=0)
    ] = 1,
) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    sums, chains = ([find(name) for name in each] for each in (SUMS, CHAINS))
    for name, chats, cluster in (
        ("sums", quizzes(sums, SUM_LEVELS, num_sums, seed=1), "symbolic"),
        ("chains", quizzes(chains, CHAIN_STEPS, num_chains, seed=2), "symbolic"),
        ("talk", talk(num_answers), "creative"),
    ):
        _write(folder / f"{name}.jsonl", chats, cluster)


if __name__ == "__main__":
    typer.run(main)
