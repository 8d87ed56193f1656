import json

import pytest

from heddle.errors import DataError
from heddle.tasks.evaluation import Answer, Call, Generation
from heddle.text.tools import check_tools
from tests.tasks.data_files import asked

TOOL = {
    "name": "trips.plan",
    "description": "Plan a trip.",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "budget": {"type": "float"},
            "hotel": {"type": "boolean"},
            "stops": {"type": "array", "items": {"type": "string"}},
            "guest": {"type": "dict", "properties": {"name": {"type": "string"}}},
            "legs": {"type": "tuple", "items": {"type": "dict"}},
        },
        "required": ["city"],
    },
}
ACCEPTED = {
    "city": ["New York, NY", "NYC"],
    "days": ["", 3],
    "budget": ["", 200],
    "hotel": ["", True],
    "stops": ["", ["Old Bridge", "Pier 4"]],
    "guest": ["", {"name": ["Ann"], "age": ["", 30]}],
    "legs": ["", [{"to": ["Bari"]}, {"to": ["Rome"]}]],
}


def only(folder, answer, category: str = "simple_python") -> Generation:
    row = {
        "prompt": "Plan it.",
        "tools": [TOOL],
        "answer": answer,
        "meta": {"category": category},
    }
    [one] = asked(folder, "bfcl", row)
    assert one.group == category
    assert isinstance(one.question, Generation)
    return one.question


def score(question: Generation, *calls: dict) -> float:
    written = tuple(Call("trips_plan", json.dumps(arguments)) for arguments in calls)
    return question.grade(Answer("", written))["accuracy"]


def test_tools_are_openais(tmp_path):
    question = only(tmp_path, [{"trips.plan": ACCEPTED}])
    check_tools(question.tools)
    function = question.tools[0]["function"]
    assert function["name"] == "trips_plan"
    kinds = {name: each["type"] for name, each in function["parameters"]["properties"].items()}
    assert kinds["budget"] == "number"
    assert kinds["guest"] == "object"
    assert kinds["legs"] == "array"


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"city": "NYC"}, True),
        ({"city": "new york ny"}, True),
        ({"city": "Boston"}, False),
        ({}, False),
        ({"city": "NYC", "country": "US"}, False),
        ({"city": "NYC", "days": 3}, True),
        ({"city": "NYC", "days": 3.0}, False),
        ({"city": "NYC", "days": "3"}, False),
        ({"city": "NYC", "days": True}, False),
        ({"city": "NYC", "budget": 200}, True),
        ({"city": "NYC", "budget": 200.0}, True),
        ({"city": "NYC", "hotel": True}, True),
        ({"city": "NYC", "hotel": 1}, False),
        ({"city": "NYC", "stops": ["old bridge", "pier 4"]}, True),
        ({"city": "NYC", "stops": ["pier 4", "old bridge"]}, False),
        ({"city": "NYC", "stops": ["old bridge"]}, False),
        ({"city": "NYC", "stops": [1, 2]}, False),
        ({"city": "NYC", "guest": {"name": "ann"}}, True),
        ({"city": "NYC", "guest": {"name": "Ann", "age": 30}}, True),
        ({"city": "NYC", "guest": {"age": 30}}, False),
        ({"city": "NYC", "guest": {"name": "Ann", "shoe": 40}}, False),
        ({"city": "NYC", "legs": [{"to": "Bari"}, {"to": "Rome"}]}, True),
        ({"city": "NYC", "legs": [{"to": "Rome"}, {"to": "Bari"}]}, False),
    ],
)
def test_arguments_are_among_the_accepted(tmp_path, arguments, right: bool):
    assert score(only(tmp_path, [{"trips.plan": ACCEPTED}]), arguments) == right


def test_what_must_be_there_may_not_be_left_out(tmp_path):
    question = only(tmp_path, [{"trips.plan": {"city": ["NYC"], "days": [3]}}])
    assert score(question, {"city": "NYC"}) == 0
    assert score(question, {"city": "NYC", "days": 3}) == 1


def test_several_calls_may_come_in_any_order(tmp_path):
    wanted = [{"trips.plan": {"city": [city]}} for city in ("Bari", "Rome")]
    question = only(tmp_path, wanted, category="parallel")
    assert score(question, {"city": "Rome"}, {"city": "Bari"}) == 1
    assert score(question, {"city": "Rome"}) == 0
    assert score(question, {"city": "Rome"}, {"city": "Rome"}) == 0
    assert score(question, {"city": "Rome"}, {"city": "Bari"}, {"city": "Bari"}) == 0


def test_arguments_that_are_no_json_are_wrong(tmp_path):
    question = only(tmp_path, [{"trips.plan": ACCEPTED}])
    for text in ('{"city": "NYC"', '["NYC"]', ""):
        assert question.grade(Answer("", (Call("trips_plan", text),)))["accuracy"] == 0
    assert question.grade(Answer("", (Call("other", '{"city": "NYC"}'),)))["accuracy"] == 0


def test_sometimes_no_call_is_right(tmp_path):
    irrelevant = only(tmp_path, "no_call", category="irrelevance")
    relevant = only(tmp_path, "any_call", category="live_relevance")
    assert (score(irrelevant), score(irrelevant, {})) == (1, 0)
    assert (score(relevant), score(relevant, {})) == (0, 1)
    with pytest.raises(DataError, match="answer must be"):
        only(tmp_path, "some_call")


def test_other_languages_are_left_out(tmp_path):
    row = {"prompt": "?", "tools": [], "answer": [], "meta": {"category": "simple_java"}}
    assert asked(tmp_path, "bfcl", row) == []
