import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heddle.errors import ConfigError
from heddle.model.transformer import Transformer
from heddle.train.optim import (
    POLAR_EXPRESS,
    Muon,
    OptimiserConfig,
    build_optimisers,
    group_of,
    orthogonal_factor,
)
from tests.tiny import tiny_config

CONFIG = OptimiserConfig(learning_rate=0.05, weight_decay=0.1, momentum=0.9)


def plain_muon(weight: np.ndarray, gradients: list[np.ndarray], config: OptimiserConfig):
    """Muon as its authors describe it, in float64 and one matrix at a time."""
    momentum = np.zeros_like(weight)
    for gradient in gradients:
        momentum = config.momentum * momentum + (1 - config.momentum) * gradient
        x = config.momentum * momentum + (1 - config.momentum) * gradient
        x = x / (np.sqrt((x * x).sum()) * 1.01 + 1e-7)
        for a, b, c in POLAR_EXPRESS:
            x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
        scale = 0.2 * max(weight.shape) ** 0.5
        weight = weight * (1 - config.learning_rate * config.weight_decay)
        weight = weight - config.learning_rate * scale * x
    return weight


def after_steps(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    muon = Muon([parameter], CONFIG)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        muon.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_muon_equals_a_plain_float64_one(shape):
    random = np.random.default_rng(0)
    weight, *gradients = random.normal(size=(6, *shape))
    ours = after_steps(
        torch.tensor(weight, dtype=torch.float32),
        [torch.tensor(gradient, dtype=torch.float32) for gradient in gradients],
    )
    expected = plain_muon(weight, list(gradients), CONFIG)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


def test_a_stack_moves_as_its_matrices_do():
    torch.manual_seed(0)
    weight, *gradients = torch.randn(4, 3, 12, 20).unbind()
    stacked = after_steps(weight, gradients)
    for index in range(3):
        alone = after_steps(weight[index], [gradient[index] for gradient in gradients])
        torch.testing.assert_close(stacked[index], alone)


def test_the_orthogonal_factor_has_singular_values_near_one():
    torch.manual_seed(0)
    matrix = torch.randn(48, 96)
    factor = orthogonal_factor(matrix)
    values = torch.linalg.svdvals(factor)
    assert values.min() > 0.86 and values.max() < 1.13
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (factor * (u @ vt)).sum() / factor.norm() / (u @ vt).norm()
    assert cosine > 0.99


def test_each_parameter_is_in_the_group_that_the_rule_says():
    model = Transformer(tiny_config(qk_norm=True, tied_embeddings=False, qkv_bias=True))
    groups = {name: group_of(name, parameter) for name, parameter in model.named_parameters()}
    assert {name for name, group in groups.items() if group == "hidden"} == {
        f"layers.{i}.{name}.weight"
        for i in range(3)
        for name in ("attention.qkv", "attention.out", "ffn.gate_up", "ffn.down")
    }
    assert groups["embed.weight"] == groups["head.weight"] == groups["norm.weight"] == "plain"
    assert groups["layers.0.attention.qkv.bias"] == "plain"
    assert group_of("layers.0.experts.router.scores.weight", torch.zeros(4, 8)) == "matrix"
    assert group_of("layers.0.experts.up", torch.zeros(4, 8)) == "hidden"
    assert group_of("think.loras.0.down.down.weight", torch.zeros(4, 8)) == "matrix"


@pytest.mark.parametrize("hidden", ["muon", "adamw"])
def test_all_parameters_move_and_only_matrices_decay(hidden):
    torch.manual_seed(0)
    parameters = {
        "layers.0.ffn.down.weight": torch.ones(8, 8),
        "router.weight": torch.ones(4, 8),
        "embed.weight": torch.ones(8, 8),
        "norm.weight": torch.ones(8),
    }
    config = OptimiserConfig(hidden=hidden, learning_rate=0.5, weight_decay=0.1)
    for optimiser in build_optimisers(parameters, config):
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
    kept = {name: parameter.mean().item() for name, parameter in parameters.items()}
    expected = {"layers.0.ffn.down.weight": 0.95, "router.weight": 0.95}
    assert kept == pytest.approx(expected | {"embed.weight": 1.0, "norm.weight": 1.0})


@pytest.mark.parametrize("fields", [{"learning_rate": 0}, {"weight_decay": -1}, {"beta2": 1.0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ConfigError):
        OptimiserConfig(**fields)
