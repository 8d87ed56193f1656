"""`heddle chat`: a conversation in the terminal."""

import sys

from heddle.cli import options
from heddle.cli.console import out
from heddle.cli.conversation import Conversation
from heddle.client.model import Model


def chat(
    model: options.Model = options.DEFAULT,
    url: options.Url = None,
    system: options.System = None,
    temperature: options.Temperature = options.TEMPERATURE,
    max_tokens: options.MaxTokens = None,
    think: options.Think = None,
    alignment: options.Alignment = None,
    threads: options.Threads = None,
    context_length: options.ContextLength = None,
    dtype: options.Dtype = "float32",
    kernels: options.Kernels = "auto",
    speculation: options.Speculation = True,
) -> None:
    """Talk to a model in the terminal; lines from a pipe are answered one by one."""
    from heddle.cli.connection import connected

    sampling = options.sampling(
        temperature=temperature, max_tokens=max_tokens, think=think, alignment=alignment
    )
    conversation = Conversation(system=system, sampling=sampling)
    config = options.engine_config(
        threads=threads,
        context_length=context_length,
        dtype=dtype,
        kernels=kernels,
        speculation=speculation,
    )
    with connected(model, url=url, config=config) as connection:
        if sys.stdin.isatty() and out.is_terminal:
            from heddle.cli.talk import talk

            talk(connection, conversation)
        else:
            answer_lines(connection, conversation)


def answer_lines(model: Model, conversation: Conversation) -> None:
    """Answer each line of standard input with plain text."""
    for line in map(str.strip, sys.stdin):
        if line.startswith("/"):
            print(conversation.obey(line), end="" if conversation.wants_to_quit else "\n")
        elif line:
            conversation.ask(line)
            pieces = []
            for delta in model.stream(conversation.messages, **conversation.sampling):
                print(delta.text, end="", flush=True)
                pieces.append(delta.text)
            print()
            conversation.answer("".join(pieces))
        if conversation.wants_to_quit:
            return
