"""Models side by side: figures, paired differences, and both forms of the report."""

import math
from dataclasses import replace

import pytest

from heddle.evals.comparison import Run, Table, compare
from heddle.evals.figures import paired, summarise
from heddle.evals.records import Record, Settings
from heddle.evals.report import as_html, as_markdown
from heddle.evals.stats import difference
from tests.evals.asked import eval_set

SET = eval_set([])
SETTINGS = Settings(set="small", model="base", think=None, identity={})
BASE = [1, 0, 0, 1, 0, 0, 1, 0]
BETTER = [1, 1, 0, 1, 1, 0, 1, 1]


def records(scores, **fields) -> dict[str, Record]:
    return {
        f"q{number}": Record(
            id=f"q{number}",
            group="odd" if number % 2 else "even",
            values={"accuracy": (score, 1.0), "other": (1.0, 1.0)},
            **fields,
        )
        for number, score in enumerate(scores)
    }


def texts_of(logprobs, words) -> dict[str, Record]:
    pairs = zip(logprobs, words, strict=True)
    return {
        str(n): Record(id=str(n), values={"word_perplexity": pair}) for n, pair in enumerate(pairs)
    }


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_differences_are_paired():
    found = paired("accuracy", records(BASE), records(BETTER))
    assert found == difference([float(b) for b in BETTER], [float(b) for b in BASE])
    assert found.value == 3 / 8 and found.n == 8


def test_only_questions_that_both_answered_count():
    first, second = records(BASE), records(BETTER)
    first["q0"] = Record(id="q0", error="too long")
    del second["q1"]
    assert paired("accuracy", first, second).n == 6
    assert paired("accuracy", first, {}) is None


def test_perplexities_are_compared_as_quotients():
    words = [10, 20, 30]
    first, second = texts_of([20.0, 44.0, 60.0], words), texts_of([10.0, 22.0, 30.0], words)
    found = paired("word_perplexity", first, second)
    assert found.value == pytest.approx(math.exp(-62 / 60))
    assert found.low < found.value < found.high < 1


def test_failures_are_in_no_figure():
    found = summarise(SET, [*records(BASE).values(), Record(id="q8", error="too long")])
    assert found.headline.value == 3 / 8 and found.headline.n == 8 and found.num_failed == 1
    assert summarise(SET, [Record(id="q8", error="too long")]) is None


def test_tables():
    failed = {"q8": Record(id="q8", error="too long")}
    spent = {"num_tokens": 10, "num_loops": 25, "flops": 3e9}
    runs = [
        Run(SETTINGS, records(BASE)),
        Run(replace(SETTINGS, think="auto"), records(BETTER, **spent) | failed),
    ]
    figures, further, compute, parts = compare(runs, [SET])
    auto = "base, loops as needed"
    assert list(figures.columns[3:]) == ["base", auto, f"{auto} against base"]
    assert texts(figures) == [["small", "accuracy", "50.0%", "37.5%", "75.0%", "+37.5"]]
    details = [cell.detail for cell in figures.rows[0][3:]]
    assert details[:2] == ["13.7% to 69.4%, n = 8", "40.9% to 92.9%, n = 8, 1 failed"]
    assert texts(further) == [["small", "other", "100.0%", "100.0%"]]
    assert texts(compute) == [["small", "–", "3.0"]] and compute.rows[0][2].detail == "2.50 loops"
    assert texts(parts) == [["even", "50.0%", "75.0%"], ["odd", "25.0%", "75.0%"]]


def test_a_model_without_answers_has_a_dash():
    other = eval_set([], name="more")
    more = Run(replace(SETTINGS, model="new", set="more"), records(BETTER))
    figures = compare([Run(SETTINGS, records(BASE)), more], [SET, other])[0]
    (first, second), dash = texts(figures), "–"
    assert (first[4], first[5]) == (dash, dash) and (second[3], second[5]) == (dash, dash)


def test_the_newest_run_of_a_model_counts():
    runs = [
        Run(SETTINGS, records(BASE)),
        Run(replace(SETTINGS, identity={"v": 2}), records(BETTER)),
    ]
    figures = compare(runs, [SET])[0]
    assert len(figures.columns) == 4 and texts(figures)[0][3] == "75.0%"


def test_reports():
    name = "a<b>&c"
    runs = [Run(SETTINGS, records(BASE)), Run(replace(SETTINGS, model=name), records(BETTER))]
    tables = compare(runs, [SET])
    markdown, page = as_markdown(tables), as_html(tables)
    assert "| small | accuracy | 50.0% | 37.5% (13.7% to 69.4%, n = 8) |" in markdown
    assert markdown.count("## ") == page.count("<h2>") == len(tables)
    assert name not in page and "a&lt;b&gt;&amp;c" in page
    assert page.count("<svg") == 2 + 4, "a bar for each share with an interval"
    assert "http" not in page and "prefers-color-scheme: dark" in page
