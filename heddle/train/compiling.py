"""Compiling a network's layers with torch.compile. Called by `trainee` where a run asks for it.

Loops over layers, and the thinking block's loops, stay outside: their number changes from batch to
batch and would be compiled anew.
"""

from collections.abc import Sequence

import torch
from torch import nn

from heddle.model.layers import Context


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Compile each layer around what depends on the batch's sequences, and on the loop."""
    for name in ("attend", "replayed_TE"):
        setattr(Context, name, torch.compiler.disable(getattr(Context, name)))
    # A layer's number is no reason to compile the same code again.
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    for layer in layers:
        layer.compile()
