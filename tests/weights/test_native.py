"""Heddle's own folders: what is written is read back, and what is wrong is said in a sentence."""

import json
from dataclasses import replace

import pytest
import torch

from heddle.engine.load import load_model
from heddle.errors import StorageError, WeightsError
from heddle.model.batch import pack
from heddle.model.config import Expert, FabricConfig, MemoryConfig, RopeConfig, ThinkConfig, Tier
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from heddle.weights.native import write_native
from tests.tiny import save_tiny, tiny_config, tiny_model

ADAPTIVE = {
    "fabric": FabricConfig(experts=(Expert(0, 8), Expert(2, 16), Expert(4, 0)), cost_weight=0.1),
    "think": ThinkConfig(first_layer=1, num_layers=1, adapter_rank=4, lora_rank=2),
    "memory": MemoryConfig(window_blocks=2, tiers=(Tier(4, 3), Tier(16, None))),
    "rope": RopeConfig(
        kind="yarn", factor=4.0, original_context_length=256, attention_factor=1.0 / 3
    ),
}


def whole(tmp_path, **changes):
    """Return a model from scratch with every adaptive part, as nothing but this format holds it."""
    config = tiny_config(**(ADAPTIVE | changes))
    state = tiny_model(config).state_dict()
    state.pop("head.weight" if config.tied_embeddings else "")
    dense = open_checkpoint(save_tiny(tmp_path / "dense"))
    tensors = {name: [tensor] for name, tensor in state.items()}
    return replace(dense, name="nano", config=config, tensors=tensors)


@pytest.fixture
def folder(tmp_path):
    write_native(whole(tmp_path), tmp_path / "nano")
    return tmp_path / "nano"


def test_configuration_tensors_and_speech_come_back(tmp_path):
    model = whole(tmp_path, norm_eps=1e-6)
    write_native(model, tmp_path / "nano")
    again = open_checkpoint(tmp_path / "nano")
    assert again.config == model.config
    assert again.tensors.keys() == model.tensors.keys()
    for name, [tensor] in model.tensors.items():
        assert torch.equal(again.load(name, torch.float32), tensor), name
    for field in ("name", "tokenizer_json", "chat_template", "bos_id", "eos_ids", "add_bos"):
        assert getattr(again, field) == getattr(model, field), field
    assert again.description.startswith("Heddle float32, ")
    ours, theirs = (load_model(each, dtype="float32") for each in (again, model))
    packed = pack([[5, 9, 300, 42], [17, 4]], loops=3)
    assert torch.equal(ours(packed).logits_NV, theirs(packed).logits_NV)


def test_no_file_is_larger_than_asked(tmp_path):
    model = whole(tmp_path)
    write_native(model, tmp_path / "nano", max_file_bytes=60_000)
    files = sorted((tmp_path / "nano").glob("*.safetensors"))
    assert len(files) > 5
    headers = 10_000  # names and shapes come on top of the tensors
    assert all(file.stat().st_size < 60_000 + headers for file in files)
    again = open_checkpoint(tmp_path / "nano")
    embedding = again.load("embed.weight", torch.float32)
    assert len(again.tensors["embed.weight"]) > 1
    assert torch.equal(embedding, model.load("embed.weight", torch.float32))
    assert again.size_bytes == sum(file.stat().st_size for file in files)


def test_bfloat16_is_half_the_size(tmp_path):
    model = whole(tmp_path)
    write_native(model, tmp_path / "nano", dtype=torch.bfloat16)
    again = open_checkpoint(tmp_path / "nano")
    assert torch.equal(
        again.load("layers.0.ffn.down.weight", torch.bfloat16),
        model.load("layers.0.ffn.down.weight", torch.bfloat16),
    )
    assert again.size_bytes < 0.6 * sum(tensor.nbytes for [tensor] in model.tensors.values())


def test_a_delta_may_change_what_its_base_has(tmp_path):
    delta = upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    norm = torch.full((96,), 2.0)
    supplies = delta.base.supplies - {"norm.weight"}
    changed = replace(
        delta,
        tensors=dict(delta.tensors) | {"norm.weight": [norm]},
        base=replace(delta.base, supplies=supplies),
    )
    write_native(changed, tmp_path / "changed")
    again = open_checkpoint(tmp_path / "changed")
    assert torch.equal(again.load("norm.weight", torch.float32), norm)
    assert len(again.tensors) == len(delta.tensors) == len(list(again.tensors))
    assert again.base == changed.base


def test_a_delta_may_bring_its_own_template(tmp_path):
    delta = upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    spoken = replace(delta, chat_template="{{ messages }}", base=replace(delta.base, speaks=False))
    write_native(spoken, tmp_path / "spoken")
    assert open_checkpoint(tmp_path / "spoken").chat_template == "{{ messages }}"
    assert not (tmp_path / "delta" / "tokenizer.json").exists()


def test_only_what_is_to_be_overwritten_is(tmp_path, folder):
    with pytest.raises(StorageError, match="exists already"):
        write_native(whole(tmp_path), folder)
    write_native(whole(tmp_path, context_length=2048), folder, overwrite=True)
    assert open_checkpoint(folder).config.context_length == 2048
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def edit(folder, change) -> None:
    path = folder / "model.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(version=2), "version 2 is of another release"),
        (lambda d: d.pop("config"), "'config' is missing"),
        (lambda d: d["config"].pop("width"), r"'config\.width' is missing"),
        (lambda d: d["config"].update(colour=1), r"'config\.colour' is unknown"),
        (lambda d: d["config"].update(width="wide"), r"'config\.width' is 'wide'"),
        (lambda d: d["config"].update(width=96.5), r"'config\.width' is '96.5'"),
        (lambda d: d["config"].update(width=1 << 40), r"'config\.width' is"),
        (lambda d: d["config"].update(num_layers=10**7), "claims 10000000 layers"),
        (lambda d: d["config"].update(num_kv_heads=4), "must be a multiple"),
        (lambda d: d["config"]["rope"].update(kind="spiral"), r"'config\.rope\.kind' is 'spiral'"),
        (lambda d: d["config"]["fabric"].update(experts=[[0]]), r"experts\[0\]' is '\[0\]'"),
        (lambda d: d["config"]["fabric"].update(experts=[[9, 8]]), "cluster must lie between"),
        (lambda d: d["config"]["memory"].update(tiers="4"), r"'config\.memory\.tiers' is '4'"),
        (lambda d: d["config"]["memory"].update(max_slots=1), "memory slots, more than max_slots"),
        (lambda d: d["config"]["think"].update(adapter_rank=5), "has shape .* asks for"),
        (lambda d: d["config"].update(qk_norm=True), "q_norm.weight' is missing"),
        (lambda d: d["config"].update(think=None), "think.* has no place in this network"),
        (lambda d: d.update(base={"spec": "nowhere", "sha256": ""}), "is not to be had"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder, change, words):
    edit(folder, change)
    with pytest.raises(WeightsError, match=words) as raised:
        open_checkpoint(folder)
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


def test_a_base_of_another_shape(tmp_path):
    upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    edit(tmp_path / "delta", lambda d: d["config"].update(ffn_width=8))
    with pytest.raises(WeightsError, match="not of the shape of its base"):
        open_checkpoint(tmp_path / "delta")


def test_a_missing_file(tmp_path):
    write_native(whole(tmp_path), tmp_path / "nano", max_file_bytes=100_000)
    (tmp_path / "nano" / "model-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-00002.safetensors: missing"):
        open_checkpoint(tmp_path / "nano")
