"""What is drawn is written down, and reading it again gives the same log-probabilities."""

import pytest
import torch

from heddle.model.batch import pack
from heddle.model.transformer import Transformer
from heddle.train.answers import log_probs
from heddle.train.rollout import Rollouts, chosen_experts, roll_out
from tests.model.test_adaptive import CONFIG, lively
from tests.tiny import tiny_config, tiny_model

PROMPTS = [[5, 6, 7], [9], [8, 5, 6, 11, 30]] * 4


def rolled(model: Transformer, *, seed: int = 0, **settings) -> Rollouts:
    torch.manual_seed(seed)
    return roll_out(model, PROMPTS, end_ids=range(40), max_tokens=24, **settings)


def adaptive() -> Transformer:
    """An adaptive network some of whose tokens think, in blocks shorter than the answers."""
    model = lively()
    with torch.no_grad():
        model.think.read.bias.copy_(torch.tensor([0.0, -0.5]))
    return model


def perturb(model: Transformer) -> None:
    """Make the routers choose otherwise, and nothing else."""
    for layer in model.layers:
        layer.experts.router.balance_E.copy_(torch.tensor([0, 3.0, 0, 0, 2.0, 0, 0]))


@pytest.mark.parametrize(("loops", "auto"), [(1, False), (3, False), (4, True)])
def test_replayed_routes_and_loops_give_the_log_probabilities_of_the_drawing(loops, auto):
    model = adaptive()
    rollouts = rolled(model, loops=loops, auto=auto)
    with torch.no_grad():
        again_N, trace = log_probs(model, rollouts.answers)
        torch.testing.assert_close(again_N, rollouts.log_prob_N, atol=1e-4, rtol=1e-4)
        replayed = rollouts.answers.packed.replay_TRYE
        assert torch.equal(chosen_experts(CONFIG, trace), replayed[:, : trace.loops_T.max()])

        perturb(model)
        again_N, _ = log_probs(model, rollouts.answers)
        torch.testing.assert_close(again_N, rollouts.log_prob_N, atol=1e-4, rtol=1e-4)
        free = rollouts.answers.packed._replace(replay_TRYE=None)
        free_N, _ = log_probs(model, rollouts.answers._replace(packed=free))
        assert (free_N - rollouts.log_prob_N).abs().max() > 0.05


def test_in_automatic_depth_the_loops_of_each_token_are_replayed():
    rollouts = rolled(adaptive(), loops=4, auto=True)
    depth = rollouts.answers.packed.depth
    assert not depth.auto_T.any()
    assert len(depth.max_T.unique()) > 2


def test_weights_of_replayed_experts_follow_the_router_now():
    model = adaptive()
    answers = rolled(model, loops=2).answers
    for replay in (True, False):
        model.zero_grad()
        packed = answers.packed if replay else answers.packed._replace(replay_TRYE=None)
        log_prob_N, _ = log_probs(model, answers._replace(packed=packed))
        log_prob_N.sum().backward()
        gradients = [layer.experts.router.scores.weight.grad.clone() for layer in model.layers]
        if replay:
            replayed = gradients
    assert all(gradient.any() for gradient in replayed)
    for ours, theirs in zip(replayed, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_dense_model_is_rolled_out_too():
    model = tiny_model(tiny_config())
    rollouts = rolled(model)
    assert rollouts.answers.packed.replay_TRYE is None
    again_N, _ = log_probs(model, rollouts.answers)
    torch.testing.assert_close(again_N, rollouts.log_prob_N, atol=1e-4, rtol=1e-4)


def test_answers_end_at_an_end_token_or_at_the_limit():
    rollouts = rolled(tiny_model(tiny_config()))
    lengths = [len(text.tokens) for text in rollouts.texts]
    assert len({*lengths}) > 2
    for text, prompt, ended in zip(rollouts.texts, PROMPTS, rollouts.is_ended_S, strict=True):
        answer = text.tokens[text.num_prompt :]
        assert text.tokens[: text.num_prompt] == prompt
        assert all(token >= 40 for token in answer[:-1])
        assert ended == (answer[-1] < 40)
        assert ended or len(text.tokens) == 24
    flat = [token for text in rollouts.texts for token in text.tokens[text.num_prompt :]]
    assert rollouts.answers.token_N.tolist() == flat
    read = [text.tokens[:-1] for text in rollouts.texts]
    assert torch.equal(rollouts.answers.packed.token_T, pack(read).token_T)


def test_tokens_are_drawn_from_the_models_distribution():
    model = tiny_model(tiny_config(vocab_size=8))
    torch.manual_seed(0)
    rollouts = roll_out(model, [[3]] * 4000, end_ids=(), max_tokens=2)
    share_V = torch.bincount(rollouts.answers.token_N, minlength=8) / 4000
    with torch.no_grad():
        expected_V = model(pack([[3]])).logits_NV[0].softmax(-1)
    torch.testing.assert_close(share_V, expected_V, atol=0.03, rtol=0)


def test_the_generator_decides():
    model = adaptive()
    first, again, other = (rolled(model, seed=seed, loops=2) for seed in (0, 0, 1))
    assert first.texts == again.texts != other.texts
    assert torch.equal(first.log_prob_N, again.log_prob_N)
