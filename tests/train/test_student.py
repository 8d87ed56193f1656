"""A student is a part of its teacher: which layers, which loops, which columns."""

from dataclasses import replace

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.batch import pack
from heddle.model.config import ThinkConfig
from heddle.model.presets import adapted
from heddle.model.transformer import Transformer
from heddle.train.student import Cut, kept_layers, student_config, student_tensors
from tests.tiny import tiny_config, tiny_model

DEEP = adapted(tiny_config(num_layers=30, width=8, num_heads=2, num_kv_heads=1, head_width=4))


def test_layers_are_thinned_evenly_and_the_ends_stay():
    student = student_config(DEEP, Cut())
    think = student.think
    assert (student.num_layers, think.first_layer, think.num_layers) == (20, 6, 8)
    assert think.max_loops == 4
    kept = kept_layers(DEEP, student)
    assert kept == [0, 1, 3, 4, 6, 7, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 26, 28, 29]
    assert kept_layers(DEEP, student_config(DEEP, Cut(num_layers=30))) == list(range(30))
    assert kept_layers(DEEP, student_config(DEEP, Cut(num_layers=3))) == [0, 20, 29]


@pytest.mark.parametrize("num_layers", range(3, 31))
def test_any_depth_keeps_every_part(num_layers):
    student = student_config(DEEP, Cut(num_layers=num_layers))
    kept = kept_layers(DEEP, student)
    assert kept == sorted(set(kept)) and len(kept) == num_layers
    parts = [sum(layer < 9 for layer in kept), sum(9 <= layer < 21 for layer in kept)]
    assert parts == [student.think.first_layer, student.think.num_layers]
    assert kept[0] == 0 and kept[-1] == 29 and 20 in kept


def test_a_dense_teacher_keeps_first_and_last():
    dense = tiny_config(num_layers=7)
    assert kept_layers(dense, student_config(dense, Cut(num_layers=4))) == [0, 2, 5, 6]
    assert student_config(dense, Cut()).num_layers == 5


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"num_layers": 31}, "31 layers is deeper than its teacher, which has 30"),
        ({"num_layers": 2}, "at least 3"),
        ({"num_layers": 0}, "at least 1 layer"),
        ({"max_loops": 33}, "from 1 to 32, not 33"),
        ({"max_loops": 0}, "from 1 to 32, not 0"),
        ({"expert_share": 0.0}, "above 0 and at most 1"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(cut, message):
    with pytest.raises(ConfigError, match=message):
        student_config(DEEP, Cut(**cut))


def test_loops_beyond_the_teachers_are_refused():
    three = replace(DEEP, think=replace(DEEP.think, max_loops=3))
    assert student_config(three, Cut()).think.max_loops == 3
    with pytest.raises(ConfigError, match="thinks longer than its teacher, which has at most 3"):
        student_config(three, Cut(max_loops=4))
    with pytest.raises(ConfigError, match="no thinking block"):
        student_config(tiny_config(), Cut(max_loops=4))


def cut(teacher: Transformer, **changes) -> Transformer:
    config = student_config(teacher.config, Cut(**changes))
    student = Transformer(config)
    student.load_state_dict(student_tensors(teacher, config), strict=False)  # a tied head
    return student.eval()


def test_a_student_that_keeps_all_is_its_teacher():
    teacher = tiny_model(adapted(tiny_config()))
    student = cut(teacher, num_layers=3, expert_share=1.0, max_loops=8)
    packed = pack([[1, 2, 3, 4]], loops=8)
    assert torch.equal(teacher(packed).logits_NV, student(packed).logits_NV)


def test_columns_that_say_nothing_are_left_away():
    teacher = tiny_model(adapted(tiny_config()))
    torch.manual_seed(3)
    for layer in teacher.layers:
        experts, start = layer.experts, 0
        for expert in teacher.config.fabric.experts:
            silent = start + torch.randperm(expert.width)[: expert.width // 2]
            experts.down.data[:, silent] = 0
            start += expert.width
    student = cut(teacher, num_layers=3)
    widths = [expert.width for expert in student.config.fabric.experts]
    assert widths == [-(-expert.width // 2) for expert in teacher.config.fabric.experts]
    packed = pack([[1, 2, 3, 4, 9, 8]], loops=3)
    assert torch.allclose(teacher(packed).logits_NV, student(packed).logits_NV, atol=1e-4)


def test_later_loops_go_with_their_layers():
    config = replace(
        tiny_config(num_layers=6),
        think=ThinkConfig(first_layer=1, num_layers=4, adapter_rank=4, lora_rank=2),
    )
    teacher = tiny_model(config)
    student = cut(teacher, num_layers=4, max_loops=2)
    kept = kept_layers(config, student.config)
    assert kept == [0, 2, 4, 5]
    assert student.think.step.shape == (1, 96)
    for ours, theirs in ((0, 1), (1, 3)):
        assert torch.equal(
            student.think.loras[ours].qkv.down.weight, teacher.think.loras[theirs].qkv.down.weight
        )
