"""AdamW and Muon, and which parameter gets which. Built by `trainee`.

Sources: AdamW, Loshchilov and Hutter 2017 (arXiv:1711.05101), in PyTorch's fused form; Muon, Jordan
et al. 2024 (https://kellerjordan.github.io/posts/muon/); its iteration's coefficients, Polar
Express, Amsel et al. 2025 (arXiv:2505.16932); its scale, Moonlight, Liu et al. 2025
(arXiv:2502.16982), 2.2: an update of root mean square 0.2, as AdamW's is, so that both share one
learning rate and one weight decay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from heddle.errors import ConfigError
from heddle.train.dist import gathered, scattered
from heddle.train.schedule import Schedule

UPDATE_RMS = 0.2
# x <- a x + b x x'x + c x (x'x)^2, one row a step: Polar Express for singular values of at least
# 1e-3, divided by 1.01, 1.01^3 and 1.01^5 so that rounding cannot make it diverge.
POLAR_EXPRESS = tuple(
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )
)

Group = Literal["hidden", "matrix", "plain"]
# The matrices between two hidden states, by the end of their names. All else is AdamW's.
HIDDEN = (
    "qkv.weight",
    "attention.out.weight",
    "ffn.gate_up.weight",
    "ffn.down.weight",
    "experts.gate",
    "experts.up",
    "experts.down",
)
UNDECAYED = ("embed.weight", "head.weight", "think.step")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How parameters move.

    Attributes:
        hidden: what moves the hidden matrices; embeddings, head, gates, norms and biases are always
            AdamW's.
        learning_rate: the peak, for both.
        weight_decay: decoupled: each step takes learning_rate * weight_decay of a matrix away. Not
            applied to embeddings, head, norms and biases.
        momentum: Muon's, in Nesterov's form.
        clip_norm: longer gradients are shortened to this, all parameters together.
    """

    hidden: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    clip_norm: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        if self.learning_rate <= 0 or self.clip_norm <= 0 or self.epsilon <= 0:
            raise ConfigError("learning_rate, clip_norm and epsilon must be positive")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay must not be negative, not {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in (self.beta1, self.beta2, self.momentum)):
            raise ConfigError("beta1, beta2 and momentum must lie in [0, 1)")

    def rate(self, step: int, *, num_steps: int) -> float:
        """Return the learning rate of step 0, 1, ..., num_steps - 1."""
        return self.learning_rate * self.schedule.factor(step, num_steps=num_steps)


def group_of(name: str, parameter: Tensor) -> Group:
    """Return a parameter's group: `hidden` may be Muon's, `plain` is not decayed."""
    if parameter.dim() < 2 or name.endswith(UNDECAYED):
        return "plain"
    return "hidden" if name.endswith(HIDDEN) else "matrix"


def build_optimisers(parameters: Mapping[str, Tensor], config: OptimiserConfig) -> list[Optimizer]:
    """Return the optimisers that together move all `parameters`."""
    groups: dict[Group, list[Tensor]] = {"hidden": [], "matrix": [], "plain": []}
    for name, parameter in parameters.items():
        groups[group_of(name, parameter)].append(parameter)
    optimisers: list[Optimizer] = []
    if config.hidden == "muon" and groups["hidden"]:
        optimisers.append(Muon(groups.pop("hidden"), config))
    adamw: list[dict[str, Any]] = [
        {"params": members, "weight_decay": 0.0 if group == "plain" else config.weight_decay}
        for group, members in groups.items()
        if members
    ]
    if adamw:
        betas = (config.beta1, config.beta2)
        rate = config.learning_rate
        optimisers.append(AdamW(adamw, lr=rate, betas=betas, eps=config.epsilon, fused=True))
    return optimisers


class Muon(Optimizer):
    """Moves matrices, or stacks of matrices in 3-D, by the orthogonal factor of their momentum.

    A matrix that is sharded over ranks is gathered and orthogonalised on each of them.
    """

    def __init__(self, parameters: list[Tensor], config: OptimiserConfig):
        super().__init__(parameters, {"lr": config.learning_rate})
        self.momentum, self.weight_decay = config.momentum, config.weight_decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, rate=group["lr"])

    def _move(self, parameter: Tensor, gradient: Tensor, *, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - self.momentum)
        ahead = gathered(gradient.lerp(momentum, self.momentum))
        scale = UPDATE_RMS * max(ahead.shape[-2:]) ** 0.5
        parameter.mul_(1 - rate * self.weight_decay)
        parameter.add_(scattered(orthogonal_factor(ahead), like=parameter), alpha=-rate * scale)


def orthogonal_factor(matrix: Tensor) -> Tensor:
    """Return U V' of matrix = U S V' by a few products: bfloat16 on a GPU, float32 on a CPU.

    Singular values of more than a thousandth of the norm come out between 0.86 and 1.13. Leading
    dimensions are a batch.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    norm = wide.norm(dim=(-2, -1), keepdim=True)
    wide = wide / (norm * 1.01 + 1e-7)  # the largest singular value is at most the Frobenius norm
    for a, b, c in POLAR_EXPRESS:
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.mT if x.shape[-2] > x.shape[-1] else wide).to(matrix.dtype)
