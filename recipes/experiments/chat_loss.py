"""How likely models find the answers of given chats, by depth: what an upgrade must not make worse.

    python -m recipes.experiments.chat_loss chats.jsonl default runs/halting

The chats, as `heddle prepare --kind chat` reads them, should be none that anybody trained on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch.nn.functional import cross_entropy

from heddle.model.transformer import Transformer
from heddle.train.data.chat_documents import ChatDocuments
from heddle.train.data.document import IGNORED, Document
from heddle.train.data.pack import pack_whole
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.reference import chat_format
from heddle.train.teacher import frozen, most_loops
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.contents import Checkpoint
from heddle.weights.hub import full_spec, resolve

CHATS_AT_ONCE = 8


class Found(NamedTuple):
    """Cross entropy of the answers' tokens, in nats a token; their number; loops a token read."""

    loss: float
    num_tokens: int
    loops: float


def first_chats(
    file: Path, start: Checkpoint, *, count: int, max_tokens: int
) -> Sequence[Document]:
    """Return a file's first chats that are short enough in a model's tokens."""
    chats = ChatDocuments(
        [file],
        chat_format(start),
        eos_ids=start.eos_ids,
        held_out_share=0.0,
        is_validation=False,
    )
    numbers = range(chats.num_documents)
    short = [chats.read(number) for number in numbers if chats.length(number) <= max_tokens]
    return short[:count]


@torch.inference_mode()
def chat_loss(
    model: Transformer, chats: Sequence[Document], *, loops: int, is_automatic: bool = False
) -> Found:
    """Return what a model makes of the answers with so many loops, or with up to so many."""
    total, num_answer, num_loops, num_read = 0.0, 0, 0, 0
    for first in range(0, len(chats), CHATS_AT_ONCE):
        batch = pack_whole(chats[first : first + CHATS_AT_ONCE])
        depth = exact_depth(loops, len(batch.token_T))
        depth = depth._replace(auto_T=torch.full_like(depth.auto_T, is_automatic))
        out = model(packed_batch(batch, depth))
        rows = batch.target_T != IGNORED
        logits_NV = model.head(out.hidden_TD[rows])
        total += float(cross_entropy(logits_NV, batch.target_T[rows], reduction="sum"))
        num_answer += int(rows.sum())
        num_read += len(rows)
        num_loops += len(rows) if out.trace.loops_T is None else int(out.trace.loops_T.sum())
    return Found(total / num_answer, num_answer, num_loops / num_read)


def main(
    file: Annotated[Path, typer.Argument(help="Chats, a JSON row each.")],
    models: Annotated[list[str], typer.Argument(help="Folders, or default.")],
    count: Annotated[int, typer.Option(help="Of the file's first chats.", min=1)] = 64,
    max_tokens: Annotated[int, typer.Option(help="Longer chats are left out.", min=2)] = 160,
    loops: Annotated[int | None, typer.Option(help="A depth to look at besides.", min=2)] = None,
) -> None:
    """Print a line for each model and depth."""
    for spec in models:
        start = open_checkpoint(resolve(full_spec(spec)))
        chats = first_chats(file, start, count=count, max_tokens=max_tokens)
        if not chats:
            raise typer.BadParameter(f"{file} has no chat of up to {max_tokens} tokens")
        model, most = frozen(start), most_loops(start.config)
        depths = {"1 loop": (1, False)}
        if most > 1:
            depths |= {"auto": (most, True), f"{most} loops": (most, False)}
        if loops and loops < most:
            depths |= {f"{loops} loops": (loops, False)}
        for name, (deepest, is_automatic) in depths.items():
            found = chat_loss(model, chats, loops=deepest, is_automatic=is_automatic)
            typer.echo(
                f"{spec}, {name}: {found.loss:.3f} nats a token of {found.num_tokens} in "
                f"{len(chats)} answers, {found.loops:.2f} loops a token"
            )


if __name__ == "__main__":
    typer.run(main)
