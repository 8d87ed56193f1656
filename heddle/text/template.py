"""Chat templates: Jinja programs that checkpoints carry, run in a sandbox as they are not ours.

Called by `chat`. The environment offers what templates written for Hugging Face's
`apply_chat_template` expect: https://huggingface.co/docs/transformers/chat_templating_writing
"""

import json
from datetime import datetime
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from heddle.errors import RequestError, WeightsError


class Template:
    """A compiled chat template; `variables` are the names it reads from outside."""

    def __init__(self, source: str):
        """Compile `source`. Raises WeightsError when it is not valid Jinja."""
        try:
            tree = _ENVIRONMENT.parse(source)
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateError as error:
            raise WeightsError(f"the model's chat template is not valid Jinja: {error}") from error
        self.source = source
        self.variables = jinja2.meta.find_undeclared_variables(tree)

    def render(self, variables: dict[str, Any]) -> str:
        """Return the text. Raises RequestError, in the template's words, when it refuses."""
        try:
            return self._template.render(variables)
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
        ) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}",
                parameter="messages",
                code="chat_template_error",
            ) from error


class _GenerationBlocks(Extension):
    """Reads `{% generation %}`, a mark of the assistant's words for training, as its contents."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as templates expect it: without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlocks, "jinja2.ext.loopcontrols"],
    )
    functions = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.filters["tojson"] = _tojson  # pyright: ignore[reportUnknownMemberType]
    environment.globals.update(functions)  # pyright: ignore[reportUnknownMemberType]
    return environment


_ENVIRONMENT = _environment()
