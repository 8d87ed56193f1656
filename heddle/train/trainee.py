"""A model in training: its working copy, float32 masters, gradients and optimisers. Used by `fit`.

In bfloat16 the network computes with bfloat16 copies of float32 masters, and gradients are summed
in float32 (Micikevicius et al. 2018, arXiv:1710.03740); no autocast decides anything. In float32
the parameters are their own masters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.checkpoint import checkpoint

from heddle.errors import WeightsError
from heddle.train.compiling import compile_layers
from heddle.train.dist import gathered, scattered, world
from heddle.train.optim import OptimiserConfig, build_optimisers
from heddle.train.parallel import Parallel, spread
from heddle.train.stage import Loss, Stage
from heddle.weights.store import Tensors


class Scored(nn.Module):
    """A model and its loss as one module, so that all that a step computes is one forward."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any, float], Loss]):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any, progress: float) -> Loss:
        """Return the loss of a micro-batch; `progress` is the share of steps that are done."""
        return self.loss(self.model, batch, progress)


class Trainee:
    """Everything that a step changes. `model` must be on its device, in float32."""

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        *,
        optimiser: OptimiserConfig,
        dtype: torch.dtype,
        parallel: Parallel,
        recompute: bool,
        is_compiled: bool,
    ):
        self.model, self.clip_norm = model, optimiser.clip_norm
        layers = list(model.get_submodule("layers").children())
        for layer in layers if recompute else ():
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if is_compiled:
            compile_layers(layers)
        whole = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        self.scored = spread(
            Scored(model, stage.loss),
            layers,
            parallel,
            uses_every_parameter=stage.uses_every_parameter,
        )
        self.working = {name: p for name, p in model.named_parameters() if name in whole}
        self.masters: dict[str, Tensor] = {
            name: p if p.dtype == torch.float32 else scattered(whole[name], like=p)
            for name, p in self.working.items()
        }
        self.optimisers = build_optimisers(self.masters, optimiser)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.model.parameters()).device

    def learn(self, batch: Any, *, progress: float) -> Loss:
        """Add a micro-batch's gradient, times its weight; the returned loss is detached."""
        loss: Loss = self.scored(batch, progress)
        (loss.mean * loss.weight).backward()
        for name, working in self.working.items():
            master, gradient = self.masters[name], working.grad
            if master is not working and gradient is not None:
                working.grad = None
                gradient = gradient.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        return loss._replace(mean=loss.mean.detach())

    @torch.no_grad()
    def gradient_norm(self, *, total_weight: float) -> float:
        """Divide the summed gradients by the weight of all ranks, and return their norm."""
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        if not gradients:
            return 0.0
        # They are means over ranks.
        for gradient in gradients:
            gradient.mul_(world().size / total_weight)
        return float(gathered(get_total_norm(gradients)))

    @torch.no_grad()
    def move(self, *, learning_rate: float, norm: float) -> None:
        """Clip the gradients, whose norm is given, and let the optimisers step."""
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        for gradient in gradients if norm > self.clip_norm else ():
            gradient.mul_(self.clip_norm / norm)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        self._refresh()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        for master in self.masters.values():
            master.grad = None

    def tensors(self) -> Tensors:
        """Return what a checkpoint keeps: masters and buffers, and the optimisers' state."""
        names = {master: name for name, master in self.masters.items()}
        optimiser = {
            f"{names[master]}:{key}": value
            for each in self.optimisers
            for master, state in each.state.items()
            for key, value in state.items()
        }
        return Tensors(model=self.masters | self._buffers(), optimiser=optimiser)

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Take over a checkpoint's tensors, whole or sharded as the masters are.

        Raises WeightsError when they are not this network's.
        """
        mine = self.masters | self._buffers()
        for name in sorted(mine.keys() | tensors.model.keys()):
            ours, theirs = mine.get(name), tensors.model.get(name)
            if ours is None or theirs is None or ours.shape != theirs.shape:
                shapes = [
                    None if tensor is None else list(tensor.shape) for tensor in (theirs, ours)
                ]
                raise WeightsError(
                    f"the checkpoint is of another network: {name} is {shapes[0]} there and "
                    f"{shapes[1]} here; resume with the settings it was saved with"
                )
            ours.copy_(scattered(theirs, like=ours))
        self._refresh()
        for each in self.optimisers:
            for group in each.param_groups:
                for master in group["params"]:
                    each.state[master].clear()
        owners = {
            m: each for each in self.optimisers for g in each.param_groups for m in g["params"]
        }
        for label, value in tensors.optimiser.items():
            name, _, key = label.partition(":")
            master = self.masters[name]
            value = value.to(master.device)
            owners[master].state[master][key] = (
                scattered(value, like=master) if value.shape == master.shape else value
            )

    def _buffers(self) -> dict[str, Tensor]:
        """Return the buffers that belong to the model's state."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        state = self.model.state_dict()
        return {name: value for name, value in state.items() if name not in parameters}

    def _refresh(self) -> None:
        """Bring the working copy in line with the masters."""
        for name, working in self.working.items():
            if self.masters[name] is not working:
                working.copy_(self.masters[name])
