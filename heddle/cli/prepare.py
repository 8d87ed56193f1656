"""`heddle prepare`: turn text or chats into shards that training reads."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from heddle.cli import options
from heddle.cli.console import err, note, print_json

Files = Annotated[
    list[Path],
    typer.Argument(help="Plain text, or .jsonl rows; .gz, .xz and .zst are unpacked.", exists=True),
]
Model = Annotated[str, typer.Option(help="Whose tokenizer: " + options.MODEL_HELP, metavar="MODEL")]
Out = Annotated[Path, typer.Option(help="The folder to make; it must not exist yet.")]
Kind = Annotated[
    Literal["text", "chat"],
    typer.Option(help="Learn every token, or what an assistant says."),
]
Source = Annotated[str, typer.Option(help="Where rows are from that do not say.")]
Licence = Annotated[str, typer.Option(help="The licence of rows that do not say.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that tokenise side by side.")]


def prepare(
    files: Files,
    out: Out,
    model: Model = options.DEFAULT,
    kind: Kind = "text",
    source: Source = "unknown",
    licence: Licence = "unknown",
    jobs: Jobs = 1,
    as_json: options.AsJson = False,
) -> None:
    """Write shards of tokens for one model; recipes name the folder as text or as chats."""
    from heddle.cli.download import fetched
    from heddle.text.tokenizer import Tokenizer
    from heddle.train.data.prepare import PrepareConfig
    from heddle.train.data.prepare import prepare as write
    from heddle.train.data.vocabulary import END_TOKEN
    from heddle.weights.checkpoint import open_checkpoint

    speaker = open_checkpoint(fetched(model))
    control_tokens = Tokenizer(speaker.tokenizer_json).control_tokens
    ends_turn = tuple(name for name, id in control_tokens.items() if id in speaker.eos_ids)
    config = PrepareConfig(
        kind=kind,
        end_token=END_TOKEN if END_TOKEN in control_tokens else ends_turn[0],
        eos_tokens=ends_turn,
        template=speaker.chat_template,
        source=source,
        licence=licence,
        num_processes=jobs,
    )
    with err.status("Reading") as status:
        prepared = write(
            files,
            out,
            tokenizer_json=speaker.tokenizer_json,
            config=config,
            on_progress=lambda now: status.update(
                f"{now.file.name}: {now.num_documents:,} documents, {now.num_tokens:,} tokens"
            ),
        )
    held_out = prepared.validation
    found = {
        "path": str(out),
        "num_documents": prepared.train.num_documents,
        "num_tokens": prepared.train.num_tokens,
        "num_validation_documents": held_out.num_documents if held_out else 0,
        "num_validation_tokens": held_out.num_tokens if held_out else 0,
    }
    if as_json:
        print_json(found)
        return
    print(out)
    note(
        f"{found['num_tokens']:,} tokens of {found['num_documents']:,} documents to learn from, "
        f"{found['num_validation_tokens']:,} of {found['num_validation_documents']:,} held out"
    )
