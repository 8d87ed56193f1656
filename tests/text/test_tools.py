import enum
import json
from dataclasses import dataclass
from typing import Literal

import jsonschema
import pytest
from llguidance import LLMatcher

from heddle.errors import RequestError
from heddle.text.tools import call_schema, call_text, check_tools, function_schema


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclass
class Place:
    title: str
    inside: "Place | None" = None


def forecast(
    place: Place,
    days: int = 1,
    *,
    unit: Unit = Unit.C,
    detail: Literal["low", "high"] | None = None,
    hours: list[int] = [],  # noqa: B006
) -> str:
    """Tell the weather to come.

    From the nearest station.

    Args:
        place: where, as a place
            that may lie inside another
        days (int): how many days
        unit: the unit: of temperature

    Returns:
        A text.
    """
    return f"{place} {days} {unit} {detail} {hours}"


def now() -> str:
    return "now"


def tool(**changes) -> dict:
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}} | changes
    return {"type": "function", "function": function}


def test_a_function_becomes_a_tool():
    made = function_schema(forecast)
    check_tools([made])
    function = made["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "Tell the weather to come.\n\nFrom the nearest station."
    parameters = function["parameters"]
    assert parameters["required"] == ["place"]
    assert parameters["additionalProperties"] is False
    descriptions = {
        name: each.get("description") for name, each in parameters["properties"].items()
    }
    assert descriptions == {
        "place": "where, as a place that may lie inside another",
        "days": "how many days",
        "unit": "the unit: of temperature",
        "detail": None,
        "hours": None,
    }
    jsonschema.Draft202012Validator.check_schema(parameters)
    assert "title" in parameters["$defs"]["Place"]["properties"]
    assert "title" not in parameters and "title" not in parameters["properties"]["days"]


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({"place": {"title": "Paris"}}, True),
        ({"place": {"title": "Paris", "inside": {"title": "France"}}, "unit": "celsius"}, True),
        ({"place": {"title": "Paris"}, "detail": "low", "hours": [1]}, True),
        ({}, False),
        ({"place": {"title": 3}}, False),
        ({"place": {"title": "Paris"}, "unit": "kelvin"}, False),
        ({"place": {"title": "Paris"}, "wind": 1}, False),
    ],
)
def test_a_functions_schema_says_what_it_takes(arguments, fits):
    function = function_schema(forecast)["function"]
    assert jsonschema.Draft202012Validator(function["parameters"]).is_valid(arguments) is fits
    for tools in ([function_schema(forecast)], [function_schema(now), function_schema(forecast)]):
        call = {"name": "forecast", "arguments": arguments}
        assert jsonschema.Draft202012Validator(call_schema(tools)).is_valid(call) is fits


def test_a_function_without_parameters_or_docstring():
    function = function_schema(now)["function"]
    assert function["description"] == ""
    assert function["parameters"]["properties"] == {} and function["parameters"]["required"] == []


@pytest.mark.parametrize(
    "function", [lambda x: x, lambda *args: args, lambda **kwargs: kwargs], ids=["hint", "*", "**"]
)
def test_functions_that_cannot_be_tools_are_refused(function):
    with pytest.raises(TypeError, match="type hint|by name"):
        function_schema(function)


@pytest.mark.parametrize(
    ("tools", "parameter"),
    [
        (["x"], "tools.0.type"),
        ([{"type": "web_search"}], "tools.0.type"),
        ([{"type": "function"}], "tools.0.function"),
        ([tool(), tool(name="two words")], "tools.1.function.name"),
        ([tool(name="x" * 65)], "tools.0.function.name"),
        ([tool(name=None)], "tools.0.function.name"),
        ([tool(), tool()], "tools.1.function.name"),
        ([tool(description=1)], "tools.0.function.description"),
        ([tool(parameters={"type": "string"})], "tools.0.function.parameters"),
        ([tool(parameters=[])], "tools.0.function.parameters"),
        (
            [tool(parameters={"type": "object", "properties": []})],
            "tools.0.function.parameters.properties",
        ),
    ],
)
def test_bad_tools_are_named(tools, parameter):
    with pytest.raises(RequestError) as caught:
        check_tools(tools)
    assert caught.value.parameter == parameter
    assert parameter in str(caught.value) or "two tools" in str(caught.value)


def test_tools_without_parameters_are_allowed():
    check_tools([tool(parameters=None), {"type": "function", "function": {"name": "g"}}])
    schema = call_schema([tool(parameters=None)])
    assert jsonschema.Draft202012Validator(schema).is_valid({"name": "f", "arguments": {}})
    assert not jsonschema.Draft202012Validator(schema).is_valid(
        {"name": "f", "arguments": {"x": 1}}
    )


def test_the_grammar_engine_takes_call_schemas():
    for tools in ([function_schema(forecast)], [function_schema(now), function_schema(forecast)]):
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(call_schema(tools)))
        assert not LLMatcher.validate_grammar(grammar)


def test_call_text_holds_the_arguments_unchanged():
    arguments = '{"a":  1}'
    assert call_text("f", arguments) == (
        '<tool_call>\n{"name": "f", "arguments": {"a":  1}}\n</tool_call>'
    )
