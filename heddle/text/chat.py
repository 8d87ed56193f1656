"""Chats to token ids, and a model's answer back to its parts.

Called by the server: `ChatFormat.render` makes the prompt, `ChatFormat.parser` reads the answer.
"""

from collections.abc import Sequence
from typing import Any

from heddle.text.messages import read_messages, with_argument_objects, with_tools_as_text
from heddle.text.shield import Shield
from heddle.text.stream_parser import THINK_BEGIN, StreamParser
from heddle.text.template import Template
from heddle.text.tokenizer import Tokenizer
from heddle.text.tools import TOOL_CALL_BEGIN

# ChatML, for checkpoints without a template: the format that most open chat models share, and which
# marks turns so plainly that a base model too continues it as a dialogue.
# https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
DEFAULT_TEMPLATE = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
"""

_NUM_TAIL_TOKENS = 8  # enough for "<think>\n" in any vocabulary


class ChatFormat:
    """How one model wants chats written; safe to share between threads."""

    def __init__(
        self,
        template: str | None,
        tokenizer: Tokenizer,
        *,
        bos_id: int | None,
        eos_ids: Sequence[int],
        add_bos: bool = False,
    ):
        """Compile the template, or `DEFAULT_TEMPLATE` if None; only then does `add_bos` count.

        A template of the model's own writes the begin-of-text token itself if the model wants it.
        """
        self._tokenizer = tokenizer
        self._shield = Shield(tokenizer)
        self._template = Template(DEFAULT_TEMPLATE if template is None else template)
        self._prefix = [bos_id] if template is None and add_bos and bos_id is not None else []
        self._special = {
            "bos_token": "" if bos_id is None else tokenizer.token_text(bos_id),
            "eos_token": tokenizer.token_text(eos_ids[0]) if eos_ids else "",
        }
        self.thinks = THINK_BEGIN in self._template.source
        # A template that writes calls in another convention gets the tools as text, so that every
        # model's calls read the same to `StreamParser` and to the grammars.
        self._template_knows_tools = (
            "tools" in self._template.variables and TOOL_CALL_BEGIN in self._template.source
        )

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] = "auto",
        add_generation_prompt: bool = True,
        template_arguments: dict[str, Any] | None = None,
    ) -> list[int]:
        """Return the prompt's ids. Nothing that the arguments say becomes a control token.

        `tools` are left out when `tool_choice` is "none". `template_arguments` are the template's
        own switches, such as `enable_thinking`. Raises RequestError when the messages, or the
        template, do not allow the chat.
        """
        offered = list(tools) if tools and tool_choice != "none" else None
        chat = read_messages(messages)
        if self._template_knows_tools:
            chat = with_argument_objects(chat)
        else:
            chat, offered = with_tools_as_text(chat, offered), None
        outside = {**(template_arguments or {}), "messages": chat, "tools": offered}
        inside = {**self._special, "add_generation_prompt": add_generation_prompt}
        text = self._template.render(self._shield.cover(outside) | inside)
        return self._prefix + self._shield.encode(text)

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether a rendered `prompt` ends inside the model's reasoning, opened by its template."""
        end = self._tokenizer.decode(list(prompt[-_NUM_TAIL_TOKENS:]), skip_special=False)
        return self.thinks and end.rstrip().endswith(THINK_BEGIN)

    def parser(self, *, tools: bool, prompt: Sequence[int] = ()) -> StreamParser:
        """Return a parser for one answer to a rendered `prompt`, which may call tools or not."""
        return StreamParser(
            tools=tools,
            thinking=self.thinks,
            inside_reasoning=self.opens_reasoning(prompt),
        )
