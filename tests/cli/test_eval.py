"""`heddle eval`, as a person runs it."""

import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import Result
from typer.testing import CliRunner

from heddle.cli.main import app
from tests.adaptive import save_adaptive
from tests.serving import ROOT

QUESTIONS = ["What holds the warp?", "What lifts it?", "What carries the weft?", "How much is 42?"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": f"arc-{n}", "prompt": text, "choices": ["the loom", "the heddle", "the shuttle"],
         "answer": "the heddle"}
        for n, text in enumerate(QUESTIONS)
    ]  # fmt: skip
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "arc_easy.jsonl").write_text(lines, encoding="utf-8")
    return folder


def heddle_eval(*arguments: str, status: int = 0) -> Result:
    shown = CliRunner().invoke(app, ["eval", *arguments])
    assert shown.exit_code == status, shown.stderr
    return shown


def test_two_models_and_their_report(tiny_folder, server_url, data, tmp_path):
    out = str(tmp_path / "out")
    sets = ["arc_easy", "addition@2", "--data", str(data), "--limit", "4", "--threads", "1"]
    models = ["--model", str(tiny_folder), "--model", server_url]
    done = heddle_eval(*sets, *models, "--out", out, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["task"] for line in lines] == ["arc_easy", "addition@2"] * 2
    ours, written, theirs, _ = lines
    assert ours["metric"] == "accuracy_by_length" and ours["n"] == 4 and ours["num_failed"] == 0
    assert 0 <= ours["low"] <= ours["value"] <= ours["high"] <= 1
    assert ours["metrics"] == theirs["metrics"], "in this process and by a server"
    assert written["metric"] == "accuracy" and written["value"] == 0

    paths = heddle_eval("--report", out).stdout.split()
    assert paths == [f"{out}/report.md", f"{out}/report.html"]
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| arc_easy | accuracy by length | 25.0% |" in markdown
    assert "| addition@2 | accuracy |" in markdown


def test_an_adaptive_model_thinks(data, tmp_path):
    model = save_adaptive(tmp_path / "model")
    common = ["arc_easy", "addition@2", "--data", str(data), "--limit", "2", "--threads", "1"]
    common += ["--model", str(model), "--out", str(tmp_path / "out"), "--json"]
    deep = heddle_eval(*common, "--think", "3").stdout.splitlines()
    assert [json.loads(line)["mean_loops"] for line in deep] == [3, 3]
    refused = heddle_eval(*common, "--think", "99", status=1)
    assert "at most 20 loops" in refused.stderr


def test_an_interrupted_run_keeps_its_answers(wordy_folder, tmp_path):
    command = [sys.executable, "-m", "heddle", "eval", "copy", "--model", str(wordy_folder)]
    command += ["--limit", "300", "--at-once", "1", "--threads", "1", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while not any(path.stat().st_size for path in tmp_path.rglob("answers.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 75 and "goes on" in told
    [path] = tmp_path.rglob("answers.jsonl")
    assert 0 < path.read_text(encoding="utf-8").count("\n") < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--list"),
        (["arc_eazy"], "did you mean arc_easy"),
        (["arc_easy"], "--data"),
        (["arc_easy", "--data", "nowhere"], "arc_easy.jsonl"),
        (["addition", "--think", "deep"], "auto"),
        (["--report", "nowhere"], "holds no answers"),
    ],
)
def test_what_cannot_be_done_is_said(tiny_folder, tmp_path, arguments, words):
    model = ["--model", str(tiny_folder), "--out", str(tmp_path)]
    assert words in heddle_eval(*arguments, *model, status=1).stderr


def test_the_sets_are_listed():
    listed = json.loads(heddle_eval("--list", "--json").stdout)
    assert {"arc_easy", "passkey", "humaneval"} <= {each["name"] for each in listed}
    assert "arc_easy" in heddle_eval("--list").stdout
