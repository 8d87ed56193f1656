"""How several processes train one model: copies, shards, experts spread out. Used by `trainee`.

Sources: DDP, Li et al. 2020 (arXiv:2006.15704); FSDP, Zhao et al. 2023 (arXiv:2304.11277), here
PyTorch's `fully_shard`; expert parallelism, GShard, Lepikhin et al. 2020 (arXiv:2006.16668).

Experts are columns of three matrices. Under "expert" each rank keeps, moves and computes an equal
share of every layer's columns, for the tokens of all ranks: tokens are gathered, each rank's part
of the sum goes back to where the token came from. A token takes three of few experts, so sending it
only to their ranks would hardly send less, and equal shares stay busy however tokens choose.
"""

from functools import partial
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from heddle.errors import ConfigError
from heddle.model.experts import Experts, mixed
from heddle.model.layers import Attention
from heddle.model.think import Think
from heddle.train.dist import most, world

Parallel = Literal["ddp", "fsdp", "expert"]

COLUMNS = {"gate": 0, "up": 0, "down": 1}  # which dimension of an expert matrix counts columns


def spread(
    module: nn.Module, layers: list[nn.Module], parallel: Parallel, *, uses_every_parameter: bool
) -> nn.Module:
    """Return `module` with gradients that are means over ranks.

    `fsdp` shards all parameters, `expert` too, but experts stay where they are and tokens travel.
    Raises ConfigError if there are no experts to spread.
    """
    if world().size == 1:
        return module
    if parallel == "ddp":
        return DistributedDataParallel(module, find_unused_parameters=not uses_every_parameter)
    mesh = init_device_mesh(next(module.parameters()).device.type, (world().size,))
    _keep_step(module)
    stay = _spread_experts(module, mesh) if parallel == "expert" else set()
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for each in (*layers, module):
        fully_shard(each, mesh=mesh, mp_policy=precision, ignored_params=stay)
    return module


def _keep_step(module: nn.Module) -> None:
    """Make ranks run the same loops, and give gradients to the same parameters.

    FSDP exchanges a layer's parameters whenever one rank computes it, and the gradients that there
    are: all ranks must have the same ones, whether or not their tokens loop or are summarised.
    """
    for part in module.modules():
        if isinstance(part, Think):
            part.agree = most
        elif isinstance(part, Attention) and part.pool is not None:
            part.register_forward_hook(_reach_pooler)


def _reach_pooler(attention: Attention, _: tuple[Tensor, ...], out_TD: Tensor) -> Tensor:
    """Add nothing to attention's result, but make it depend on the pooler."""
    assert attention.pool is not None, "only such are given this hook"
    return out_TD + 0 * sum(parameter.sum() for parameter in attention.pool.parameters())


def _spread_experts(module: nn.Module, mesh: DeviceMesh) -> set[nn.Parameter]:
    """Leave each rank its columns of all experts, and return these parameters."""
    spread_out = set()
    for experts in module.modules():
        if not isinstance(experts, Experts):
            continue
        for name, dimension in COLUMNS.items():
            whole: nn.Parameter = getattr(experts, name)
            mine = distribute_tensor(whole.detach(), mesh, [Shard(dimension)])
            parameter = nn.Parameter(mine, requires_grad=whole.requires_grad)
            if parameter.requires_grad:
                # It sums over the tokens of all ranks, where other gradients are means over ranks.
                parameter.register_hook(partial(torch.mul, other=1 / mesh.size()))
            experts.register_parameter(name, parameter)
            spread_out.add(parameter)
        experts.mix = partial(_mix, experts, mesh)  # pyright: ignore[reportAttributeAccessIssue]
    if not spread_out:
        raise ConfigError(
            'fit.parallel "expert" needs a network with experts: give the model a fabric, or use '
            '"fsdp"'
        )
    return spread_out


@torch.compiler.disable
def _mix(experts: Experts, mesh: DeviceMesh, x_TD: Tensor, weight_TE: Tensor) -> Tensor:
    """Do what `Experts.mix` does, with all ranks; their numbers of tokens may differ."""
    num_tokens, width = x_TD.shape
    sent_TX = torch.cat([x_TD, weight_TE.to(x_TD.dtype)], dim=1)
    sent_TX = pad(sent_TX, (0, 0, 0, most(num_tokens) - num_tokens))
    sent = DTensor.from_local(sent_TX, mesh, [Shard(0)])
    all_TX = sent.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    x_TD, weight_TE = all_TX.tensor_split([width], dim=1)
    gate_FD, up_FD, down_DF = (getattr(experts, name).to_local() for name in COLUMNS)
    widths = _local_widths(experts.widths, mesh)
    mix_TD = mixed(x_TD, weight_TE.float(), widths, (gate_FD, up_FD, down_DF))
    back = DTensor.from_local(mix_TD, mesh, [Partial()])
    return back.redistribute(placements=[Shard(0)]).to_local()[:num_tokens]


def _local_widths(widths: list[int], mesh: DeviceMesh) -> list[int]:
    """Return how many of each expert's columns this rank has, as `Shard` divides them."""
    num_each = -(-sum(widths) // mesh.size())
    first = mesh.get_local_rank() * num_each
    ends = [0, *accumulate(widths)]
    mine = [min(max(end - first, 0), num_each) for end in ends]
    return [end - start for start, end in pairwise(mine)]
