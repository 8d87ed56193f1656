"""docs/api.md says what the code does: routes, fields, codes, settings, metrics."""

import dataclasses
import re
from pathlib import Path

import pytest

from heddle.server.app import build_app
from heddle.server.metrics import Metrics
from heddle.server.settings import ServerSettings
from heddle.server.wire import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Function,
    JsonSchema,
    Message,
    StreamOptions,
    Think,
)

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading."""
    section = re.split(rf"^#+ {heading}\n", PAGE, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def names(heading: str) -> list[str]:
    return [row[0].strip("`") for row in rows(heading)]


@pytest.mark.parametrize(
    "model",
    [
        ChatRequest,
        Message,
        Function,
        JsonSchema,
        StreamOptions,
        Think,
        CompletionRequest,
        EmbeddingRequest,
    ],
    ids=lambda model: model.__name__,
)
def test_fields(model):
    documented = {row[0].strip("`"): row[1] for row in rows(model.__name__)}
    in_code = dict.fromkeys(model.used(), "used")
    in_code |= dict.fromkeys(model.ignored, "ignored") | dict.fromkeys(model.refused, "refused")
    assert documented == in_code


def test_reasons_for_refusal():
    for model in (ChatRequest, Message, CompletionRequest, EmbeddingRequest):
        documented = {row[0].strip("`"): row[2].replace("`", "") for row in rows(model.__name__)}
        for name, reason in model.refused.items():
            assert documented[name] == reason


def test_routes(served_engine, tmp_path):
    app = build_app(served_engine, ServerSettings(keys_path=tmp_path / "keys"))
    paths = app.openapi()["paths"].items()
    assert names("Routes") == [
        f"{method.upper()} {path}" for path, methods in paths for method in methods
    ]


def test_settings():
    fields = dataclasses.fields(ServerSettings)
    assert len(fields) <= 20
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows("Settings")}
    assert list(documented) == [field.name for field in fields]
    for field in fields:
        if field.default is not dataclasses.MISSING:
            assert documented[field.name] == str(field.default)


def test_metrics(served_engine):
    metrics = Metrics(served_engine.stats)
    collected = []
    for family in metrics.registry.collect():
        collected.append(family.name + ("_total" if family.type == "counter" else ""))
    assert sorted(names("Metrics")) == sorted(collected)


def test_error_codes():
    documented = {code for row in rows("Errors") for code in re.findall(r"`(\w+)`", row[2])}
    server, text = (
        "".join(path.read_text(encoding="utf-8") for path in (ROOT / "heddle" / part).glob("*.py"))
        for part in ("server", "text")
    )
    for code in documented:
        assert f'"{code}"' in server + text
    raised = re.findall(r'\bcode="(\w+)"', server)
    raised += re.findall(r'_field_error\(\s*"(\w+)"', server)
    assert set(raised) <= documented
