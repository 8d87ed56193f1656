"""The structured answers and tools that both Python drivers ask for.

Every value is bounded, so that even a model of random weights must finish a valid answer.
"""

from typing import Literal

from pydantic import BaseModel


class Place(BaseModel):
    """A structured answer."""

    continent: Literal["africa", "america", "asia", "europe", "oceania"]
    is_capital: bool


PLACE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "continent": {"enum": ["africa", "america", "asia", "europe", "oceania"]},
                "is_capital": {"type": "boolean"},
            },
            "required": ["continent", "is_capital"],
            "additionalProperties": False,
        },
    },
}

UNITS = ("celsius", "fahrenheit")
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "description": "Look up the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Rome", "Oslo"]},
                "unit": {"enum": list(UNITS)},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tell the time of day.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
