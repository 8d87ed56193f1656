"""`heddle upcycle`: lay a routing fabric and a thinking block over a dense model."""

from pathlib import Path
from typing import Annotated

import typer

from heddle.cli import options
from heddle.cli.console import note, print_json

Base = Annotated[str, typer.Argument(help=options.MODEL_HELP, metavar="BASE")]
Out = Annotated[Path, typer.Option(help="The folder to make; it must not exist yet.")]
Fabric = Annotated[
    bool,
    typer.Option(
        "--fabric/--no-fabric",
        help="Add the gate and its experts too. Without them one loop costs what the base does.",
    ),
]
MaxLoops = Annotated[int, typer.Option(help="So often a token may pass the thinking block.")]
GateBias = Annotated[
    float,
    typer.Option(
        help="How far the gates of later loops are open before training: sigmoid of this, a share."
    ),
]
NetworkSeed = Annotated[int, typer.Option(help="Draws the new parts' weights.")]


def upcycle(
    base: Base,
    out: Out,
    fabric: Fabric = True,
    max_loops: MaxLoops = 32,
    gate_bias: GateBias = -3.0,
    seed: NetworkSeed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Make a delta checkpoint: new parts, still silent, over a dense model that stays as it is."""
    from heddle.cli.download import fetched
    from heddle.weights import delta
    from heddle.weights.hub import full_spec

    fetched(base)
    checkpoint = delta.upcycle(
        full_spec(base), out, has_fabric=fabric, max_loops=max_loops, gate_bias=gate_bias, seed=seed
    )
    think = checkpoint.config.think
    assert think is not None, "an upcycled network thinks"
    last = think.first_layer + think.num_layers - 1
    if as_json:
        print_json(
            {
                "path": str(out),
                "description": checkpoint.description,
                "first_thinking_layer": think.first_layer,
                "last_thinking_layer": last,
            }
        )
        return
    print(out)
    note(f"{checkpoint.description}; layers {think.first_layer} to {last} can be looped")
