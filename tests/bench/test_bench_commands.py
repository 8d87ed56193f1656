import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from heddle.bench import roofline
from heddle.bench.load import draw_chats
from heddle.cli.main import app
from heddle.weights.delta import upcycle
from tests.serving import ROOT
from tests.weights.gguf_files import TINY, write_gguf


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


def test_loop_is_measured_beside_the_first_pass(tiny_folder, tmp_path):
    upcycle(str(tiny_folder), tmp_path / "delta")
    found = bench("loop", "--model", str(tmp_path / "delta"), "--rounds", "2")
    assert 0 < found["ours_low"] <= found["ours"] and found["first_pass_ms"] > 0
    assert 0 < found["share_low"] <= found["share_of_first_pass"] <= found["share_high"]


def test_loop_needs_a_thinking_block(tiny_folder):
    failed = CliRunner().invoke(app, ["bench", "loop", "--model", str(tiny_folder)])
    assert failed.exit_code == 1 and "never loops" in failed.stderr


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


def test_gap_is_that_of_a_running_answer(wordy_folder):
    options = ["--prompt-tokens", "600", "--rounds", "2"]
    found = bench("gap", "--model", str(wordy_folder), *options)
    assert 0 < found["gap_p50_ms"] <= found["ours"] <= found["gap_max_ms"]
    assert found["gaps"] >= 2 and 0 < found["alone_p50_ms"] <= found["alone_p95_ms"]
    assert found["prefill_s"] * 2e3 * 2 > found["gap_max_ms"]


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
def test_answers_side_by_side_with_llama_cpp_are_nearly_the_same(tmp_path):
    shape = replace(TINY, width=96, num_heads=6, num_kv_heads=2)
    path = write_gguf(tmp_path / "model.gguf", config=shape, format="Q8_0")
    options = ["--peer", "llama.cpp", "--at-once", "3", "--rounds", "2"]
    found = bench("load", "--model", str(path), *options)
    assert found["streams"] == 3 and found["peer_name"] == "llama.cpp" and found["ratio"] > 0
    assert found["same_tokens"] > 0.7  # its activations have 8 bits


def test_roofline_counts_what_is_read_and_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "FAR_BYTES", 1 << 20)
    shape = replace(TINY, width=96, num_heads=6, num_kv_heads=2)
    path = write_gguf(tmp_path / "model.gguf", config=shape, format="Q8_0")
    found = bench("roofline", "--model", str(path), "--rounds", "1")
    assert found["decode_bound"] > found["decode"] > 0
    assert found["ours"] == pytest.approx(found["decode"] / found["decode_bound"], abs=2e-3)
    matrices = 384 * 96 + 2 * (96 * (96 + 64) + 96 * 96 + 3 * 96 * 96)
    native = matrices * 34 // 32 + 4 * 96 * (2 * 2 + 1)
    assert found["weight_bytes"] in (native, 4 * (matrices + 96 * 5))
    products = 2 * matrices
    assert products < found["decode_flops"] < 1.5 * products
    assert found["prefill_flops"] < found["decode_flops"] + 4 * 2 * 96 * 512


def test_the_roofline_is_of_dense_models(tiny_folder, tmp_path):
    upcycle(str(tiny_folder), tmp_path / "delta")
    arguments = ["bench", "roofline", "--model", str(tmp_path / "delta")]
    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1 and "is adaptive" in failed.stderr
