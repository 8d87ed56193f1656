"""`heddle run`: one prompt, one answer."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from heddle.cli import options
from heddle.cli.console import print_json
from heddle.errors import ConfigError

Prompt = Annotated[
    str, typer.Argument(help="What to ask; - reads it from standard input.", metavar="PROMPT")
]


def run(
    model: Annotated[str, typer.Argument(help=options.MODEL_HELP, metavar="MODEL")],
    prompt: Prompt,
    system: options.System = None,
    temperature: options.Temperature = options.TEMPERATURE,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    think: options.Think = None,
    alignment: options.Alignment = None,
    url: options.Url = None,
    threads: options.Threads = None,
    context_length: options.ContextLength = None,
    dtype: options.Dtype = "float32",
    kernels: options.Kernels = "auto",
    speculation: options.Speculation = True,
    as_json: options.AsJson = False,
) -> None:
    """Answer one prompt and leave."""
    from heddle.cli.connection import connected

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise ConfigError("the prompt is empty")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    sampling = options.sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_tokens=max_tokens,
        seed=seed,
        think=think,
        alignment=alignment,
    )
    config = options.engine_config(
        threads=threads,
        context_length=context_length,
        dtype=dtype,
        kernels=kernels,
        speculation=speculation,
    )
    with connected(model, url=url, config=config) as connection:
        if as_json:
            reply = connection.chat(messages, **sampling)
            print_json({"model": connection.name, **asdict(reply)})
            return
        for delta in connection.stream(messages, **sampling):
            print(delta.text, end="", flush=True)
        print()
