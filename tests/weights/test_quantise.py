"""A quantised model means what its blocks mean, in Heddle's readers and in llama.cpp alike."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heddle.engine.load import load_model
from heddle.errors import ConfigError, StorageError, WeightsError
from heddle.kernels.quant import QuantTensor
from heddle.model.batch import pack
from heddle.model.config import RopeConfig
from heddle.text.tokenizer import Tokenizer
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.delta import upcycle
from heddle.weights.native import write_native
from heddle.weights.quantise import ROUNDED, quantise, rounding_errors
from tests.tiny import save_tiny
from tests.weights.gguf_files import TINY, sentencepiece_fields, write_gguf
from tests.weights.lines import lines

TARGETS = ("model.gguf", "folder")


def numbers(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: checkpoint.load(name, torch.float32) for name in checkpoint.tensors}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format", ["Q8_0", "Q4_1", "Q4_0"])
def test_a_dense_folder_becomes_blocks(tiny_folder, tmp_path, format, target):
    before = open_checkpoint(tiny_folder)
    quantise(before, tmp_path / target, format)
    after = open_checkpoint(tmp_path / target)
    assert replace(after.config, norm_eps=before.config.norm_eps) == before.config
    assert (after.bos_id, after.eos_ids) == (before.bos_id, before.eos_ids)
    assert (after.chat_template, after.add_bos) == (before.chat_template, before.add_bos)
    assert after.size_bytes < before.size_bytes / (3.3 if format == "Q8_0" else 4.5)
    texts = lines(40, seed=3)
    was, now = (Tokenizer(each.tokenizer_json) for each in (before, after))
    assert [now.encode(text) for text in texts] == [was.encode(text) for text in texts]
    bound = 0.01 if format == "Q8_0" else 0.12
    errors = {error.name: error for error in rounding_errors(before, after)}
    assert errors["embed.weight"].format == "Q8_0"
    assert errors["layers.0.ffn.down.weight"].format == format
    assert all(0 < error.relative_rms < bound for error in errors.values())
    assert all(error.relative_rms < error.relative_worst for error in errors.values())
    exact, found = numbers(before), numbers(after)
    for name in exact.keys() - errors.keys():
        assert torch.equal(exact[name], found[name]), name
    assert {name.split(".", 2)[-1] for name in errors} == {
        *("weight", "attention.qkv.weight", "attention.out.weight"),
        *("ffn.gate_up.weight", "ffn.down.weight"),
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_architecture_comes_back_bit_for_bit(tmp_path, architecture):
    """What is in blocks already stays as it is; q and k of "llama" files are turned both ways."""
    options = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True, "tied_embeddings": False}}
    shape = replace(TINY, width=96, num_heads=6, num_kv_heads=2, **options.get(architecture, {}))
    path = write_gguf(tmp_path / "a.gguf", config=shape, architecture=architecture, format="Q8_0")
    before = open_checkpoint(path)
    for target in TARGETS:
        quantise(before, tmp_path / target, "Q8_0")
        after = open_checkpoint(tmp_path / target)
        assert after.config == before.config
        exact, found = numbers(before), numbers(after)
        assert exact.keys() == found.keys()
        assert all(torch.equal(exact[name], found[name]) for name in exact)


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(kind="linear", factor=4.0),
        RopeConfig(kind="yarn", factor=4.0, original_context_length=64),
        RopeConfig(kind="yarn", factor=4.0, original_context_length=64, attention_factor=1.5),
        RopeConfig(base=500_000.0, kind="llama3", factor=32.0, original_context_length=8192),
    ],
    ids=lambda rope: f"{rope.kind} {rope.attention_factor}",
)
def test_stretched_positions_are_kept(tiny_folder, tmp_path, rope):
    before = open_checkpoint(tiny_folder)
    before = replace(before, config=replace(before.config, rope=rope))
    quantise(before, tmp_path / "a.gguf", "Q8_0")
    found = open_checkpoint(tmp_path / "a.gguf").config.rope
    assert replace(found, attention_factor=None) == replace(rope, attention_factor=None)
    assert found.attention_factor == pytest.approx(rope.attention_factor)


def test_sentencepiece_vocabularies_come_back(tmp_path):
    shape = replace(TINY, vocab_size=512)
    path = write_gguf(tmp_path / "a.gguf", config=shape, tokenizer=sentencepiece_fields(400))
    before = open_checkpoint(path)
    quantise(before, tmp_path / "b.gguf", "Q4_0")
    was, now = (
        Tokenizer(each.tokenizer_json) for each in (before, open_checkpoint(tmp_path / "b.gguf"))
    )
    texts = [*lines(40, seed=4), "ça 東京 <s>"]
    assert [now.encode(text) for text in texts] == [was.encode(text) for text in texts]


def test_a_tokenizer_that_gguf_cannot_say_is_refused_there_only(tiny_folder, tmp_path):
    before = open_checkpoint(tiny_folder)
    document = json.loads(before.tokenizer_json)
    document["pre_tokenizer"] = {"type": "Whitespace"}
    strange = replace(before, tokenizer_json=json.dumps(document))
    with pytest.raises(WeightsError, match="cuts text in a way that has no name .* folder"):
        quantise(strange, tmp_path / "a.gguf", "Q8_0")
    assert list(tmp_path.glob("*gguf*")) == []
    quantise(strange, tmp_path / "folder", "Q8_0")
    assert open_checkpoint(tmp_path / "folder").tokenizer_json == strange.tokenizer_json


def test_an_adaptive_model_becomes_a_whole_folder(tiny_folder, tmp_path):
    upcycle(str(tiny_folder), tmp_path / "delta")
    before = open_checkpoint(tmp_path / "delta")
    with pytest.raises(WeightsError, match="adaptive .* for which GGUF has no form"):
        quantise(before, tmp_path / "a.gguf", "Q4_1")
    quantise(before, tmp_path / "folder", "Q4_1")
    after = open_checkpoint(tmp_path / "folder")
    assert after.base is None and after.config == before.config
    [part] = after.tensors["layers.0.experts.gate"]
    assert isinstance(part, QuantTensor) and part.format == "Q4_1"
    [scores] = after.tensors["layers.0.experts.router.scores.weight"]
    assert isinstance(scores, torch.Tensor)
    logits = [
        load_model(each, dtype="float32")(pack([[5, 6, 7, 8]])).logits_NV
        for each in (before, after)
    ]
    assert 0 < float((logits[0] - logits[1]).norm() / logits[0].norm()) < 0.3


def test_large_tensors_lie_in_pieces_of_their_rows(tiny_folder, tmp_path):
    before = open_checkpoint(tiny_folder)
    quantise(before, tmp_path / "whole", "Q8_0")
    whole = open_checkpoint(tmp_path / "whole")
    write_native(whole, tmp_path / "cut", dtype=None, max_file_bytes=10_000)
    cut = open_checkpoint(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 5
    assert len(cut.tensors["embed.weight"]) > 1
    exact, found = numbers(whole), numbers(cut)
    assert all(torch.equal(exact[name], found[name]) for name in exact)


def test_numbers_that_are_not_finite_are_named(tiny_folder, tmp_path):
    before = open_checkpoint(tiny_folder)
    weight = before.load("layers.1.ffn.down.weight", torch.float32)
    weight[3, 5] = torch.nan
    broken = replace(before, tensors={**before.tensors, "layers.1.ffn.down.weight": [weight]})
    with pytest.raises(WeightsError, match=r"layers\.1\.ffn\.down\.weight.* not finite"):
        quantise(broken, tmp_path / "a.gguf", "Q4_1")
    assert list(tmp_path.iterdir()) == []


def test_widths_without_whole_blocks(tmp_path):
    odd = save_tiny(tmp_path / "odd", width=80, num_heads=5, num_kv_heads=1, ffn_width=100)
    with pytest.raises(ConfigError, match="nothing to quantise"):
        quantise(open_checkpoint(odd), tmp_path / "a.gguf", "Q4_1")
    partly = save_tiny(tmp_path / "partly", ffn_width=100)
    quantise(open_checkpoint(partly), tmp_path / "b.gguf", "Q4_1")
    after = open_checkpoint(tmp_path / "b.gguf")
    assert isinstance(after.tensors["layers.0.ffn.down.weight"][0], torch.Tensor)
    assert isinstance(after.tensors["layers.0.ffn.gate_up.weight"][0], QuantTensor)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_written_over(tiny_folder, tmp_path, target):
    quantise(open_checkpoint(tiny_folder), tmp_path / target, "Q8_0")
    with pytest.raises(StorageError, match="exists already"):
        quantise(open_checkpoint(tiny_folder), tmp_path / target, "Q8_0")


@pytest.mark.parametrize("damage", ["as numbers", "another format", "half a block"])
def test_blocks_that_are_none_are_refused(tiny_folder, tmp_path, damage):
    quantise(open_checkpoint(tiny_folder), tmp_path / "folder", "Q8_0")
    file = tmp_path / "folder" / "model.safetensors"
    tensors = load_file(file)
    name = "layers.0.ffn.down.weight@Q8_0"
    data = tensors.pop(name)
    if damage == "as numbers":
        tensors["layers.0.ffn.down.weight"] = data
    elif damage == "another format":
        tensors["layers.0.ffn.down.weight@Q9_9"] = data
    else:
        tensors[name] = data[:, :-1].contiguous()
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"layers\.0\.ffn\.down\.weight"):
        open_checkpoint(tmp_path / "folder")


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
@pytest.mark.parametrize("format", ["Q8_0", "Q4_1", "Q4_0"])
def test_llama_cpp_reads_the_file_and_computes_alike(tmp_path, format):
    import llama_cpp  # pyright: ignore[reportMissingImports]

    shape = replace(TINY, width=96, num_heads=6, num_kv_heads=2)
    before = open_checkpoint(write_gguf(tmp_path / "float.gguf", config=shape))
    path = tmp_path / "model.gguf"
    quantise(before, path, format)
    after = open_checkpoint(path)
    tokens = Tokenizer(after.tokenizer_json).encode("".join(lines(3, seed=9)))[:40]
    ours_NV = load_model(after, dtype="float32")(pack([tokens])).logits_NV
    theirs = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    text = "The loom holds the warp."
    assert theirs.tokenize(text.encode(), add_bos=False, special=False) == Tokenizer(
        after.tokenizer_json
    ).encode(text)
    theirs.eval(tokens)
    theirs_NV = torch.from_numpy(theirs.scores[: len(tokens)].copy())
    spread = (ours_NV - ours_NV.mean(-1, keepdim=True)).norm()
    assert float((ours_NV - theirs_NV).norm() / spread) < 0.03  # its activations have 8 bits
    theirs.close()


def test_what_is_rounded_is_named_by_patterns_that_exist(tiny_folder, tmp_path):
    upcycle(str(tiny_folder), tmp_path / "delta")
    names = open_checkpoint(tmp_path / "delta").tensors
    for pattern in ROUNDED:
        assert Path(pattern.replace("*", "0")).name in {Path(name).name for name in names}
