"""A token a step computes what whole sequences do, and text is drawn from the softmax."""

from dataclasses import replace

import pytest
import torch

from heddle.model.batch import Depth, Packed, pack
from heddle.model.presets import adapted
from heddle.train.lockstep import Lockstep, write_on
from tests.tiny import tiny_config, tiny_model


def test_tokens_may_think_differently_often():
    config = adapted(tiny_config())
    config = replace(config, think=replace(config.think, block_tokens=4))
    model = tiny_model(config)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(512, (3, 11), generator=generator)
    loops_SL = torch.randint(1, 4, (3, 11), generator=generator)
    exact_T = torch.zeros(33, dtype=torch.bool)
    with torch.no_grad():
        packed = pack(texts.tolist())._replace(depth=Depth(loops_SL.flatten(), exact_T))
        whole_SLV = model(packed).logits_NV.view(3, 11, -1)
        memory = Lockstep(max_tokens=11, block_tokens=4)
        for position in range(11):
            memory.position = position
            step = pack(texts[:, position : position + 1].tolist())
            step = step._replace(
                position_T=torch.full_like(step.position_T, position),
                depth=Depth(loops_SL[:, position], exact_T[:3]),
            )
            logits = model(step, memory).logits_NV
            assert torch.allclose(logits, whole_SLV[:, position], atol=1e-4)


@pytest.mark.parametrize("loops", [1, 3])
def test_a_token_a_step_equals_whole_sequences(loops):
    config = adapted(tiny_config())
    config = replace(config, think=replace(config.think, block_tokens=4))
    model = tiny_model(config)
    texts = torch.randint(512, (3, 11), generator=torch.Generator().manual_seed(0)).tolist()
    packed = pack(texts, loops=loops)
    with torch.no_grad():
        whole_SLV = model(packed).logits_NV.view(3, 11, -1)
        memory = Lockstep(max_tokens=11, block_tokens=4)
        rows = torch.tensor([0, 2])
        for position in range(11):
            alive = torch.arange(3) if position < 6 else rows
            if position == 6:
                memory.drop_others(rows)
            memory.position = position
            step = pack([[texts[i][position]] for i in alive], loops=loops)
            step = step._replace(position_T=torch.full_like(step.position_T, position))
            logits = model(step, memory).logits_NV
            assert torch.allclose(logits, whole_SLV[alive, position], atol=1e-4)


def test_texts_end_and_prompts_stay():
    model = tiny_model(tiny_config())
    prompts = [[5], [7, 8, 9], [5, 6]]
    texts = write_on(model, prompts, temperatures=[0, 0, 0], max_tokens=12, end_ids=())
    assert [text[: len(prompt)] for text, prompt in zip(texts, prompts, strict=True)] == prompts
    assert {len(text) for text in texts} == {12}
    for text, prompt in zip(texts, prompts, strict=True):
        likeliest = model(pack([text])).logits_NV.argmax(-1).tolist()
        assert text[len(prompt) :] == likeliest[len(prompt) - 1 : -1]
    end = texts[1][6]
    cut = write_on(model, prompts, temperatures=[0, 0, 0], max_tokens=12, end_ids=(end,))
    place = texts[1].index(end, 3)
    assert cut[1] == texts[1][: place + 1]


def test_draws_follow_temperature():
    model = tiny_model(tiny_config(vocab_size=8))
    generator = torch.Generator().manual_seed(1)
    texts = write_on(
        model,
        [[3]] * 8000,
        temperatures=[0.7] * 8000,
        max_tokens=2,
        end_ids=(),
        generator=generator,
    )
    counts = torch.tensor([text[1] for text in texts]).bincount(minlength=8) / 8000
    packed = Packed(torch.tensor([3]), torch.tensor([0]), (0, 1), torch.tensor([0]))
    expected = (model(packed).logits_NV[0] / 0.7).softmax(-1)
    assert torch.allclose(counts, expected, atol=0.02)
