"""Do `heddle eval` and EleutherAI's lm-evaluation-harness find the same, question by question?

    heddle eval arc_easy piqa --data DATA --limit 200 --context-length 2048 --out OUT
    heddle export default --format huggingface --out FOLDER
    python -m recipes.experiments.eval_agreement FOLDER --data DATA --out OUT

The last command wants an environment of its own, with `lm_eval` 0.4.13, torch and transformers. It
gives the harness its own shipped tasks, prompts included, over our rows in the fields that those
tasks read. docs/eval.md has what came out.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from os.path import commonprefix
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import lm_eval
import typer
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from heddle.evals.comparison import bounds_text, value_text
from heddle.evals.figures import figure, is_perplexity
from heddle.evals.records import Record, read_runs
from heddle.tasks.data_folder import find_file
from heddle.tasks.rows import read_rows
from heddle.tasks.text_sets import WIKITEXT_FILE, wikitext_articles

Row = dict[str, Any]


class Peer(NamedTuple):
    """The harness's task for a set, a metric by our name and by its, and our rows as its own."""

    task: str
    metric: str
    theirs: str
    rows: Callable[[Path], list[Row]]


def converted(name: str, convert: Callable[[Row], Row]) -> Callable[[Path], list[Row]]:
    """Return what reads a set's rows and gives them the harness's fields."""

    def rows(data: Path) -> list[Row]:
        every = read_rows(find_file(data, f"{name}.jsonl"))
        return [{"id": row["id"], **convert(row)} for row in every]

    return rows


def with_letters(question: str) -> Callable[[Row], Row]:
    """Return the form of ARC and OpenBookQA, whose question is in the field named."""

    def convert(row: Row) -> Row:
        labels = "ABCDE"[: len(row["choices"])]
        return {
            question: row["prompt"],
            "choices": {"text": row["choices"], "label": list(labels)},
            "answerKey": labels[_gold(row)],
        }

    return convert


def piqa(row: Row) -> Row:
    """Return PIQA's form."""
    first, second = row["choices"]
    return {"goal": row["prompt"], "sol1": first, "sol2": second, "label": _gold(row)}


def boolq(row: Row) -> Row:
    """Return BoolQ's form."""
    passage, _, question = row["prompt"].removeprefix("Passage: ").rpartition("\nQuestion: ")
    label = ["no", "yes"].index(row["answer"])
    return {"passage": passage, "question": question.removesuffix("?"), "label": label}


def winogrande(row: Row) -> Row:
    """Return WinoGrande's form: a sentence with a gap, and what may fill it."""
    first, second = row["choices"]
    same = len(commonprefix([first, second]))
    return {
        "sentence": f"{first[:same]}_ {row['meta']['continuation']}",
        "option1": first[same:],
        "option2": second[same:],
        "answer": str(1 + _gold(row)),
    }


def lambada(row: Row) -> Row:
    """Return LAMBADA's form."""
    return {"text": f"{row['prompt']} {row['answer']}"}


def wikitext(data: Path) -> list[Row]:
    """Return WikiText's articles."""
    articles = wikitext_articles(find_file(data, WIKITEXT_FILE))
    return [{"id": f"wikitext2-{n}", "page": page} for n, page in enumerate(articles, 1)]


def _gold(row: Row) -> int:
    return row["choices"].index(row["answer"])


ARC = with_letters("question")
PEERS: Mapping[str, Peer] = {
    "arc_easy": Peer("arc_easy", "accuracy_by_length", "acc_norm", converted("arc_easy", ARC)),
    "arc_challenge": Peer(
        "arc_challenge", "accuracy_by_length", "acc_norm", converted("arc_challenge", ARC)
    ),
    "openbookqa": Peer(
        "openbookqa",
        "accuracy_by_length",
        "acc_norm",
        converted("openbookqa", with_letters("question_stem")),
    ),
    "piqa": Peer("piqa", "accuracy_by_length", "acc_norm", converted("piqa", piqa)),
    "winogrande": Peer("winogrande", "accuracy", "acc", converted("winogrande", winogrande)),
    "boolq": Peer("boolq", "accuracy", "acc", converted("boolq", boolq)),
    "lambada": Peer("lambada_openai", "accuracy", "acc", converted("lambada", lambada)),
    "wikitext2": Peer("wikitext", "word_perplexity", "word_perplexity", wikitext),
}


def main(
    model: Annotated[Path, typer.Argument(help="The model in Hugging Face's form.")],
    data: Annotated[Path, typer.Option(help="The folder of the sets' files.")],
    out: Annotated[Path, typer.Option(help="Where `heddle eval` has put its answers.")],
    context_length: Annotated[int, typer.Option(help="As `heddle eval` had it.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 8,
) -> None:
    """Ask the harness what OUT has answers to and print how far the two agree."""
    # The harness counts the tokens that are read, we those that are predicted from them too.
    subject = HFLM(
        str(model),
        device="cpu",
        dtype="float32",
        max_length=context_length - 1,
        batch_size=batch_size,
    )
    manager = TaskManager()
    columns = (
        "Set",
        "n",
        "Heddle",
        "harness",
        "scored alike",
        "largest difference of log-likelihoods",
    )
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for settings, records in read_runs(out):
        if settings.set in PEERS:
            cells = _row(settings.set, records, subject, manager, data)
            typer.echo(f"| {' | '.join(cells)} |")


def _row(
    set_name: str, ours: dict[str, Record], subject: HFLM, manager: TaskManager, data: Path
) -> list[str]:
    """Return a row of the table, over the questions that we have answers to."""
    peer = PEERS[set_name]
    rows = [row for row in peer.rows(data) if row["id"] in ours]
    with tempfile.TemporaryDirectory() as folder:
        task = _task_file(Path(folder), peer, rows, manager)
        found = lm_eval.simple_evaluate(
            subject, tasks=[str(task)], bootstrap_iters=0, task_manager=manager
        )
    assert found is not None
    [samples], [figures] = found["samples"].values(), found["results"].values()
    alike, off = [], []
    for sample in samples:
        record = ours[sample["doc"]["id"]]
        theirs = [each if isinstance(each, float) else each[0] for each in sample["filtered_resps"]]
        off += [abs(a - b) for a, b in zip(record.logprobs, theirs, strict=True)]
        alike.append(record.values[peer.metric][0] == sample[peer.theirs])
    is_text = is_perplexity(peer.metric)
    found_here = figure(peer.metric, [ours[row["id"]] for row in rows])
    return [
        set_name,
        str(len(samples)),
        f"{value_text(peer.metric, found_here.value)} ({bounds_text(peer.metric, found_here)})",
        value_text(peer.metric, figures[f"{peer.theirs},none"]),
        "" if is_text else f"{sum(alike)} of {len(alike)}",
        f"{max(off):.4f}",
    ]


def _task_file(folder: Path, peer: Peer, rows: list[Row], manager: TaskManager) -> Path:
    """Write a task of the harness that is one of its own, but for where the rows come from."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "include": str(manager.task_index[peer.task].yaml_path),
        "task": f"heddle_{peer.task}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    path = folder / "task.yaml"
    path.write_text(json.dumps(task), encoding="utf-8")  # which is YAML too
    return path


if __name__ == "__main__":
    typer.run(main)
