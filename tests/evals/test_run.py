"""Running a set: kept answers, failures, going on, all kinds of questions."""

import json
import math
from dataclasses import replace

import pytest

from heddle.cli.engine_scorer import EngineScorer
from heddle.client.http import HttpModel
from heddle.client.model import Reply, ToolCall
from heddle.client.scripted import ScriptedModel
from heddle.errors import DataError, RemoteError
from heddle.evals.records import ANSWERS, read_runs
from heddle.evals.run import Subject, evaluate
from heddle.tasks.evaluation import Asked
from tests.evals.asked import CHOICES, CONTINUATIONS, PASSAGES, TOO_LONG, call_text, eval_set, says


class Counting:
    """A scorer that notes what it is asked."""

    def __init__(self, scorer):
        self.scorer = scorer
        self.asked = []

    def score(self, pairs, *, think=None):
        self.asked.append(pairs)
        return self.scorer.score(pairs, think=think)


@pytest.fixture
def subject(engine) -> Subject:
    scorer = Counting(EngineScorer(engine))
    return Subject(
        name="tiny", model=ScriptedModel([]), scorer=scorer, think=None, identity={"seed": 0}
    )


@pytest.fixture
def run(subject, tmp_path):
    def run(questions, *, by=subject, limit=None, num_at_once=2, **fields):
        seen = []
        summary = evaluate(
            eval_set(questions, **fields),
            by,
            data=None,
            limit=limit,
            out=tmp_path / "out",
            num_at_once=num_at_once,
            on_answer=seen.append,
        )
        return summary, seen

    return run


def scripted(script, **fields) -> Subject:
    model = ScriptedModel(script)
    given = {"name": "scripted", "model": model, "scorer": model, "think": None, "identity": {}}
    return Subject(**given | fields)


def test_choices(run, subject):
    summary, seen = run(CHOICES)
    right = []
    for question in CHOICES:
        first, second = subject.scorer.scorer.score(question.pairs)
        right.append((second.logprob > first.logprob) == question.gold)
    assert summary.headline.value == pytest.approx(sum(right) / 6)
    assert summary.headline.n == len(seen) == 6
    assert {name: found.n for name, found in summary.groups.items()} == {"even": 3, "odd": 3}
    assert summary.mean_loops == 1 and summary.flops > 0


def test_continuations(run, subject):
    summary, _ = run(CONTINUATIONS, metric="perplexity")
    scored = [subject.scorer.scorer.score([(q.context, q.continuation)])[0] for q in CONTINUATIONS]
    mean = sum(each.logprob for each in scored) / 4
    assert summary.headline.value == pytest.approx(math.exp(-mean), rel=1e-3)
    assert summary.headline.low < summary.headline.value < summary.headline.high
    assert summary.figures["accuracy"].value == sum(each.is_greedy for each in scored) / 4


def test_passages_are_weighed_by_their_words(run, subject):
    summary, _ = run(PASSAGES, metric="word_perplexity")
    total = sum(subject.scorer.scorer.score([("", q.text)])[0].logprob for q in PASSAGES)
    assert summary.headline.value == pytest.approx(math.exp(-total / 54), rel=1e-3)
    assert summary.figures["byte_perplexity"].value == pytest.approx(
        math.exp(-total / (57 * 6)), rel=1e-3
    )


def test_written_answers(run):
    call = ToolCall(id="1", name="add", arguments='{"a": 1}')
    add = lambda answer: {"accuracy": float(call_text(answer) == 'add{"a": 1}')}  # noqa: E731
    tools = ({"type": "function", "function": {"name": "add"}},)
    questions = [says("one"), says("two", stop=("\n",)), says("", grade=add, tools=tools)]
    subject = scripted(["one", "three", Reply(text="", tool_calls=(call,))], think="auto")
    summary, seen = run(questions, by=subject, num_at_once=1)
    assert summary.headline.value == pytest.approx(2 / 3)
    first, second, third = subject.model.requests
    assert first.sampling == {"temperature": 0, "max_tokens": 4, "think": {"loops": "auto"}}
    assert second.sampling["stop"] == ["\n"] and third.tools == list(tools)
    texts = {record.id: record.text for record in seen}
    assert texts == {"q0": "one", "q1": "three", "q2": 'add {"a": 1}'}
    assert summary.flops is None and summary.mean_loops is None


def test_a_plain_prompt_is_gone_on_with(run, server_url):
    with HttpModel(server_url) as model:
        by = scripted([], model=model)
        grade = lambda answer: {"accuracy": float(len(answer.text) > 0)}  # noqa: E731
        summary, [record] = run([says("", prompt="The loom", grade=grade)], by=by)
        assert summary.headline.value == 1
        assert record.text == model.complete("The loom", temperature=0, max_tokens=4).text
        assert record.num_tokens > 0


def test_a_second_start_goes_on(run, subject):
    part, _ = run(CHOICES, limit=2)
    assert part.headline.n == 2 and len(subject.scorer.asked) == 2
    whole, seen = run(CHOICES)
    assert whole.headline.n == len(seen) == 6 and len(subject.scorer.asked) == 6
    again, _ = run(CHOICES)
    assert again == whole._replace(eval_set=again.eval_set) and len(subject.scorer.asked) == 6
    first_two, _ = run(CHOICES, limit=2)
    assert first_two.headline == part.headline


def test_other_settings_start_anew(run, subject):
    run(CHOICES)
    run(CHOICES, by=replace(subject, identity={"seed": 1}))
    assert len(subject.scorer.asked) == 12


def test_what_a_killed_process_wrote_is_kept(run, subject, tmp_path):
    whole, _ = run(CHOICES)
    [path] = (tmp_path / "out").rglob(ANSWERS)
    path.write_bytes(path.read_bytes()[:-20])
    summary, _ = run(CHOICES)
    assert len(subject.scorer.asked) == 7 and summary.headline == whole.headline
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 6


def test_a_failure_is_kept_and_asked_again(run, subject, tmp_path):
    for _ in range(2):
        summary, seen = run([*CHOICES, TOO_LONG])
        assert summary.num_failed == 1 and summary.headline.n == 6
        [failed] = [record for record in seen if record.error]
        assert failed.id == "q6" and "context" in failed.error
    [(_, records)] = read_runs(tmp_path / "out")
    assert records["q6"].error and len(records) == 7
    assert len(subject.scorer.asked) == 8


def test_nothing_but_failures_is_an_error(run):
    with pytest.raises(DataError, match="none of 1 questions.*context"):
        run([TOO_LONG])


def test_ids_are_not_used_twice(run):
    twice = [Asked("q", CHOICES[0]), Asked("q", CHOICES[1])]
    with pytest.raises(DataError, match="two questions of the id 'q'"):
        run([], ask=lambda _: iter(twice))


def test_a_server_that_is_gone_ends_the_run(run, tmp_path):
    gone = HttpModel("http://127.0.0.1:9", "model", max_retries=0)
    with gone, pytest.raises(RemoteError, match="reached"):
        run(CHOICES, by=scripted([], model=gone, scorer=gone))
    [(_, records)] = read_runs(tmp_path / "out")
    assert records == {}
