import json

from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.weights.checkpoint import open_checkpoint

SIZES = [
    f"--set={setting}"
    for setting in (
        'text.tasks=["copy:3-3"]',
        "text.num_tokens=600",
        "text.texts_per_round=10",
        "text.validation_share=0.3",
        "text.max_tokens=80",
        "retention.num_examples=4",
        "tokens_per_batch=128",
        "fit.num_steps=1",
    )
]


def test_distill_makes_a_smaller_model(tiny_folder, tmp_path):
    out = tmp_path / "student"
    command = ["distill", str(tiny_folder), "--out", str(out), "--layers", "2", *SIZES]
    prepared = CliRunner().invoke(app, [*command, "--only-prepare"])
    assert prepared.exit_code == 0, prepared.stderr
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "already holds a distillation; add --resume" in again.stderr
    done = CliRunner().invoke(app, [*command, "--resume", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["student_params"] < found["teacher_params"]
    assert found["after"][0]["tasks"][0]["n"] == 4
    assert open_checkpoint(out).config.num_layers == 2
    shown = CliRunner().invoke(app, [*command, "--resume"])
    assert "copy:3-3: kept" in shown.stdout and "perplexity ratio" in shown.stdout


def test_what_cannot_be_distilled_is_said_in_a_sentence(tiny_folder, tmp_path):
    def refused(*arguments: str) -> str:
        shown = CliRunner().invoke(app, ["distill", *arguments, "--out", str(tmp_path / "x")])
        assert shown.exit_code == 1 and not (tmp_path / "x").exists()
        return shown.stderr

    assert "nothing-here" in refused("nothing-here")
    assert "deeper than its teacher, which has 3" in refused(str(tiny_folder), "--layers", "4")
    assert "from 1 to 32, not 33" in refused(str(tiny_folder), "--loops", "33")
    assert "no thinking block" in refused(str(tiny_folder), "--loops", "4")
    assert "the nearest is 'cut.num_layers'" in refused(str(tiny_folder), "--set", "cut.layers=2")
