"""Upcycling: a dense model is given a fabric and a thinking block, as a delta over it."""

from dataclasses import replace
from pathlib import Path

import torch

from heddle.errors import ConfigError
from heddle.model.config import MAX_LOOPS
from heddle.model.presets import adapted
from heddle.model.think import GATE_BIAS
from heddle.model.transformer import Transformer
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.contents import Checkpoint, model_name
from heddle.weights.hub import resolve
from heddle.weights.native import read_native, tensor_shapes, with_base, write_native


def upcycle(
    spec: str,
    target: Path,
    *,
    has_fabric: bool = True,
    max_loops: int = MAX_LOOPS,
    gate_bias: float = GATE_BIAS,
    seed: int = 0,
) -> Checkpoint:
    """Give a dense model a fabric and a thinking block, new and still silent; write the delta.

    Or the block alone. Logits at one loop are the base's, bit for bit; of the way on which another
    loop would lead a state goes sigmoid(`gate_bias`). Raises ConfigError for a base that is too
    shallow or not dense, or an impossible number of loops, StorageError when `target` exists or
    cannot be written.
    """
    if max_loops < 2:
        raise ConfigError("a thinking block thinks from its second loop on: give it 2 or more")
    opened = open_checkpoint(resolve(spec))
    if opened.config.fabric or opened.config.think:
        raise ConfigError(f"{opened.path} is adaptive already: upcycle a dense model")
    base = with_base(opened, spec)
    config = adapted(base.config, has_fabric=has_fabric, max_loops=max_loops)
    torch.manual_seed(seed)
    fresh = Transformer(config).state_dict()
    fresh["think.gate.bias"].fill_(gate_bias)
    new = {name: [fresh[name]] for name in tensor_shapes(config) if name not in base.tensors}
    name = model_name(target.resolve())
    write_native(replace(base, name=name, config=config, tensors=new), target)
    return read_native(target)
