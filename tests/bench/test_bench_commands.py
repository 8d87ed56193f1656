import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from heddle.bench.load import draw_chats
from heddle.cli.main import app
from heddle.weights.delta import upcycle
from tests.serving import ROOT


def bench(*arguments: str) -> dict:
    """Run a bench command and return the object on its last line."""
    shown = CliRunner().invoke(app, ["bench", *arguments, "--threads", "1", "--json"])
    assert shown.exit_code == 0, shown.stderr
    report = json.loads(shown.stdout.splitlines()[-1])
    documented = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    assert not [name for name in report if f"`{name}`" not in documented]
    return report


def test_decode_beside_transformers_runs_the_same_weights(tiny_folder):
    found = bench("decode", "--model", str(tiny_folder), "--peer", "transformers", "--rounds", "2")
    assert found["name"] == "decode" and found["unit"] == "tokens/s"
    assert found["peer_name"] == "transformers" and found["ratio"] > 0
    assert found["same_tokens"] == 1.0


def test_ttft_reports_the_prefix_hit(tiny_folder):
    found = bench("ttft", "--model", str(tiny_folder), "--rounds", "2")
    assert found["ours"] > 0 and found["ttft_hit"]["ours"] > 0
    assert found["peer"] is None


def test_load_answers_every_chat(tiny_folder):
    found = bench("load", "--model", str(tiny_folder), "--chats", "6", "--at-once", "3")
    assert found["errors"] == 0 and found["answers"] == 6
    chats = draw_chats(6, seed=found["seed"])
    assert found["answer_tokens"] == sum(chat.num_answer_tokens for chat in chats)
    assert 0 < found["first_token_p50_ms"] <= found["first_token_p95_ms"]
    assert found["gap_p50_ms"] <= found["gap_p95_ms"]


def test_load_ends_at_its_time_limit(tiny_folder):
    options = ["--chats", "2000", "--at-once", "2", "--time-limit", "1"]
    found = bench("load", "--model", str(tiny_folder), *options)
    assert found["wall_s"] < 5
    assert found["error_messages"] == ["not finished within 1 s"]


def test_memory_fills_the_context(tiny_folder):
    found = bench("memory", "--model", str(tiny_folder), "--context-length", "512")
    assert found["ours"] >= found["ours_ready"] > 50


def test_startup(tiny_folder):
    found = bench("startup", "--model", str(tiny_folder), "--rounds", "1")
    assert 0 < found["ours"] <= found["first_answer_s"]


def test_an_upcycled_model_beside_its_base_writes_the_same(tiny_folder, tmp_path):
    upcycle(str(tiny_folder), tmp_path / "delta")
    model = str(tmp_path / "delta")
    found = bench("decode", "--model", model, "--peer", "base", "--rounds", "1")
    assert found["peer_name"] == "base" and found["ratio"] > 0
    assert found["same_tokens"] == 1.0


def test_the_peer_base_is_for_upcycled_models(tiny_folder):
    arguments = ["bench", "decode", "--model", str(tiny_folder), "--peer", "base"]
    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1
    assert "stands on no base: the peer base is for upcycled models" in failed.stderr


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
def test_llama_cpp_needs_a_gguf_file(tiny_folder):
    arguments = ["bench", "decode", "--model", str(tiny_folder), "--peer", "llama.cpp"]
    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: llama.cpp reads .gguf files only")
