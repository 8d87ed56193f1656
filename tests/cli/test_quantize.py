import json
import re

from typer.testing import CliRunner

from heddle.bench.quality import compare_models, own_text
from heddle.cli.main import app
from heddle.weights.checkpoint import open_checkpoint
from tests.serving import ROOT

DOCS = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def quantize(*arguments: str):
    return CliRunner().invoke(app, ["quantize", *arguments])


def test_the_report_says_what_rounding_did(tiny_folder, tmp_path):
    target = tmp_path / "model.gguf"
    options = ["--type", "q8_0", "--tokens", "300", "--json"]
    made = quantize(str(tiny_folder), str(target), *options)
    assert made.exit_code == 0, made.stderr
    found = json.loads(made.stdout)
    section = DOCS[DOCS.index("## heddle quantize") : DOCS.index("## heddle keys")]
    named = [*found, *found["tensors"][0], *found["quality"]]
    assert not [name for name in named if f"`{name}`" not in section]
    assert found["path"] == str(target) and found["size_bytes"] == target.stat().st_size
    assert all(0 < tensor["relative_rms"] < 0.01 for tensor in found["tensors"])
    quality = found["quality"]
    assert 290 <= quality["num_tokens"] < 300 and 0 < quality["mean_kl"] < 0.01
    change = quality["perplexity_after"] / quality["perplexity_before"]
    assert 0.97 < change < 1.03 and quality["same_first"] > 0.8


def test_the_table_names_kinds_of_tensors(tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The loom holds the warp; the heddle lifts it.", encoding="utf-8")
    made = quantize(str(tiny_folder), str(tmp_path / "folder"), "--text", str(text))
    assert made.exit_code == 0, made.stderr
    assert re.search(r"layers: ffn.down +Q4_1 +0.06M +\d\.\d+% +\d\.\d+% \(layer \d\)", made.stdout)
    assert "Mean KL" in made.stdout


def test_four_bits_cost_more_than_eight_and_nothing_costs_nothing(tiny_folder, tmp_path):
    before, kl = open_checkpoint(tiny_folder), {}
    for type in ("q8_0", "q4_1"):
        made = quantize(str(tiny_folder), str(tmp_path / type), "--type", type, "--tokens", "0")
        assert made.exit_code == 0 and "Mean KL" not in made.stdout
        after = open_checkpoint(tmp_path / type)
        kl[type] = compare_models(
            before, after, own_text(), max_tokens=300, on_piece=lambda _: None
        ).mean_kl
    same = compare_models(before, before, own_text(), max_tokens=300, on_piece=lambda _: None)
    assert same.mean_kl == 0 and same.same_first == 1
    assert same.perplexity_before == same.perplexity_after
    assert 5 * kl["q8_0"] < kl["q4_1"]


def test_a_text_that_cannot_be_read_comes_before_any_work(tiny_folder, tmp_path):
    failed = quantize(str(tiny_folder), str(tmp_path / "out"), "--text", str(tmp_path / "no.txt"))
    assert failed.exit_code == 1 and "no.txt: cannot be read as UTF-8 text" in failed.stderr
    assert list(tmp_path.iterdir()) == []
