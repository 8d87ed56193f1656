"""From a teacher alone to a served student: text, loss, run, figures; stopped and resumed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.presets import adapted
from heddle.train.data.vocabulary import BYTES_ONLY, train_tokenizer
from heddle.train.distill import REPORT, START, DistillConfig, prepare, report
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.retention import RetentionConfig
from heddle.train.run import start
from heddle.train.self_text import TextConfig
from heddle.train.student import Cut
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.native import tensor_shapes, write_native
from tests.tiny import tiny_config, tiny_model
from tests.train.small import assert_same_bits, newest

SMALL = DistillConfig(
    cut=Cut(num_layers=3, max_loops=2),
    text=TextConfig(
        num_tokens=800,
        max_tokens=16,
        tasks=("copy:3-4",),
        texts_per_round=40,
        validation_share=0.2,
    ),
    retention=RetentionConfig(num_examples=8),
    teacher_loops=3,
    tokens_per_batch=128,
    optimiser=OptimiserConfig(learning_rate=3e-3),
    fit=FitConfig(num_steps=4),
)


def save_teacher(folder: Path, **changes) -> Path:
    """Write a random adaptive model that speaks bytes."""
    config = adapted(tiny_config(vocab_size=BYTES_ONLY, num_layers=5, context_length=64, **changes))
    network = tiny_model(config)
    state = network.state_dict()
    write_native(
        Checkpoint(
            name="teacher",
            path=folder,
            config=config,
            tensors={name: [state[name]] for name in tensor_shapes(config)},
            tokenizer_json=train_tokenizer(()),
            chat_template=None,
            bos_id=None,
            eos_ids=(0,),
            add_bos=False,
            size_bytes=0,
            description="random",
        ),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("weights") / "teacher")


def distil(teacher: Path, folder: Path, config: DistillConfig = SMALL, *, resume: bool = False):
    run = prepare(str(teacher), folder, config, tell=lambda num_tokens: None)
    return run, start(run, resume=resume)


def test_a_student_becomes_like_its_teacher(teacher, tmp_path):
    config = replace(SMALL, fit=FitConfig(num_steps=30))
    run, result = distil(teacher, tmp_path / "student", config)
    assert result.stopped is None
    found = report(run, config)
    before, after = found["before"][-1], found["after"][-1]
    assert (after["student_loops"], after["teacher_loops"]) == (2, 3)
    assert after["text"]["kl"] < 0.7 * before["text"]["kl"]
    assert after["text"]["top1_agreement"] > before["text"]["top1_agreement"]
    assert 0 <= after["text"]["routing_chance"] <= 1
    assert after["tasks"][0]["n"] == 8 and after["tasks"][0]["task"] == "copy:3-4"
    assert json.loads((run.folder / REPORT).read_text(encoding="utf-8")) == found
    served = open_checkpoint(run.folder)
    assert served.config.num_layers == 3 and served.config.think.max_loops == 2
    assert served.tokenizer_json == open_checkpoint(teacher).tokenizer_json
    assert not torch.equal(
        served.load("norm.weight", torch.float32),
        open_checkpoint(run.folder / START).load("norm.weight", torch.float32),
    )


def test_a_stopped_distillation_goes_on_bit_for_bit(teacher, tmp_path):
    _, whole = distil(teacher, tmp_path / "whole")
    half = replace(SMALL, fit=FitConfig(num_steps=2))
    distil(teacher, tmp_path / "parts", half)
    _, parts = distil(teacher, tmp_path / "parts", resume=True)
    assert (whole.step, parts.step) == (4, 4)
    assert_same_bits(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_a_dense_teacher_has_a_dense_student(tmp_path, tiny_folder):
    text = replace(
        SMALL.text, tasks=(), max_tokens=80
    )  # its chat template takes many of its tokens
    config = replace(SMALL, cut=Cut(num_layers=2), text=text, teacher_loops=None)
    run, _ = distil(tiny_folder, tmp_path / "student", config)
    student = open_checkpoint(run.folder).config
    assert (student.num_layers, student.fabric, student.think) == (2, None, None)
    found = report(run, config)
    assert len(found["after"]) == 1 and "routing_agreement" not in found["after"][0]["text"]


def test_what_cannot_be_is_refused(teacher, tmp_path):
    def refuse(message: str, **changes):
        with pytest.raises(ConfigError, match=message):
            prepare(str(teacher), tmp_path / "x", replace(SMALL, **changes), tell=lambda _: None)
        assert not (tmp_path / "x").exists()

    refuse("deeper than its teacher, which has 5", cut=Cut(num_layers=6))
    refuse("teacher_loops must be from 1 to 32", teacher_loops=33)
    refuse("context of 64 tokens", text=TextConfig(max_tokens=65))


def test_another_student_does_not_take_a_folder_over(teacher, tmp_path):
    prepare(str(teacher), tmp_path, SMALL, tell=lambda _: None)
    with pytest.raises(ConfigError, match="student of another shape"):
        prepare(str(teacher), tmp_path, replace(SMALL, cut=Cut(num_layers=4)), tell=lambda _: None)


def test_every_setting_is_documented():
    told = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
    for name, value in asdict(DistillConfig()).items():
        if name in ("optimiser", "fit"):
            continue
        for path in [f"{name}.{field}" for field in value] if isinstance(value, dict) else [name]:
            assert f"`{path}`" in told, path
