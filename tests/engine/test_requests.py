"""What a request may ask for, and what the engine refuses."""

import json
import threading

import llguidance
import pytest
import torch
from tokenizers import Tokenizer

from heddle.engine.config import EngineConfig
from heddle.engine.request import Embedded, PromptScored, Sampling, TokenEvent
from heddle.errors import BusyError, ConfigError, ContextLengthError, EngineError, RequestError
from heddle.model.batch import pack
from heddle.model.memory import WholeSequences
from tests.engine.collect import ask
from tests.tiny import tiny_config, tiny_engine, tiny_model

PROMPT = list(range(5, 45))


def plain(prompt: list[int]):
    packed = pack([prompt])
    with torch.inference_mode():
        return tiny_model(tiny_config())(packed, WholeSequences(packed.bounds_S1))


def test_a_stop_id_ends_the_answer_and_is_not_reported(engine):
    tokens = ask(engine, PROMPT, 8).tokens
    stop = tokens[4]
    answer = ask(engine, PROMPT, 8, stop_ids=frozenset([stop]))
    assert answer.tokens == tokens[: tokens.index(stop)]
    assert answer.finished.reason == "stop"
    assert answer.finished.stop.token_id == stop
    assert answer.finished.num_new_tokens == tokens.index(stop) + 1


def test_logprobs_are_the_models(engine):
    answer = ask(engine, PROMPT, 1, sampling=Sampling(temperature=0, num_top_logprobs=5)).wait()
    event = answer.events[0]
    assert isinstance(event, TokenEvent)
    expected = plain(PROMPT).logits_NV[-1].log_softmax(-1).topk(5)
    assert [token for token, _ in event.top_logprobs] == expected.indices.tolist()
    assert [value for _, value in event.top_logprobs] == pytest.approx(
        expected.values.tolist(), abs=1e-4
    )
    assert event.logprob == pytest.approx(float(expected.values[0]), abs=1e-4)


@pytest.mark.parametrize("step_tokens", [512, 20])
def test_prompt_logprobs_are_the_models(tmp_path, step_tokens):
    engine = tiny_engine(tmp_path, step_tokens=step_tokens, shared_step_tokens=18)
    ask(engine, PROMPT, 4).wait()  # a cached prefix must not be taken from
    answer = ask(engine, PROMPT, 0, num_prompt_logprobs=2).wait()
    scored = answer.events[0]
    assert isinstance(scored, PromptScored)
    logprobs = plain(PROMPT).logits_NV.log_softmax(-1)
    expected = logprobs[torch.arange(len(PROMPT) - 1), torch.tensor(PROMPT[1:])]
    assert list(scored.logprobs) == pytest.approx(expected.tolist(), abs=1e-4)
    assert scored.top_logprobs[3][0][0] == int(logprobs[3].argmax())
    assert answer.finished.reason == "length"
    engine.close()


@pytest.mark.parametrize("step_tokens", [512, 20])
def test_an_embedding_is_the_mean_hidden_state(tmp_path, step_tokens):
    engine = tiny_engine(tmp_path, step_tokens=step_tokens, shared_step_tokens=18)
    embedded = ask(engine, PROMPT, 0, embed=True).wait().events[0]
    assert isinstance(embedded, Embedded)
    expected = plain(PROMPT).hidden_TD.mean(0).tolist()
    assert list(embedded.vector) == pytest.approx(expected, abs=1e-4)
    engine.close()


def test_a_seed_draws_the_same_tokens_in_any_company(engine):
    sampling = Sampling(temperature=1.5, top_p=0.95, seed=11)
    alone = ask(engine, PROMPT, 12, sampling=sampling).tokens
    company = [ask(engine, PROMPT[i:], 12, sampling=Sampling(seed=i)) for i in range(5)]
    assert ask(engine, PROMPT, 12, sampling=sampling).tokens == alone
    assert ask(engine, PROMPT, 12, sampling=Sampling(temperature=1.5, seed=12)).tokens != alone
    for other in company:
        other.wait()


def test_a_schema_is_followed(engine):
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    answer = ask(
        engine, PROMPT, 64, grammar=grammar, stop_ids=frozenset([2]), sampling=Sampling(seed=5)
    )
    text = Tokenizer.from_str(engine.checkpoint.tokenizer_json).decode(answer.tokens)
    assert json.loads(text)["n"] in (1, 2)
    assert answer.finished.reason == "stop"


def test_an_unusable_grammar_is_refused(engine):
    with pytest.raises(RequestError, match="grammar"):
        ask(engine, PROMPT, 4, grammar='{"grammars": [{"lark_grammar": "start: <"}]}')


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"prompt": ()}, RequestError, "empty"),
        ({"prompt": (512,)}, RequestError, "between 0 and 511"),
        ({"max_new_tokens": 0}, RequestError, "at least 1"),
        ({"max_new_tokens": -3}, RequestError, "at least 1"),
        ({"max_new_tokens": 1000}, ContextLengthError, "40 tokens.*1000.*1040.*1024"),
        ({"sampling": Sampling(logit_bias={999: 1.0})}, RequestError, "logit_bias"),
    ],
)
def test_what_cannot_be_served_is_refused(engine, fields, error, words):
    with pytest.raises(error, match=words):
        ask(engine, PROMPT, **fields)


@pytest.mark.parametrize(
    "values", [{"temperature": -1}, {"top_p": 1.5}, {"min_p": -0.1}, {"presence_penalty": 3}]
)
def test_sampling_out_of_bounds_is_refused(values):
    with pytest.raises(RequestError, match=next(iter(values))):
        Sampling(**values)


@pytest.mark.parametrize("values", [{"threads": 0}, {"max_running": 600}, {"page_tokens": 0}])
def test_settings_out_of_bounds_are_refused(values):
    with pytest.raises(ConfigError):
        EngineConfig(**values)


def test_a_full_queue_says_when_to_come_back(tmp_path):
    engine = tiny_engine(tmp_path, max_running=1, max_waiting=1)
    held = [ask(engine, PROMPT, 900), ask(engine, PROMPT, 900)]
    with pytest.raises(BusyError) as busy:
        ask(engine, PROMPT, 4)
    assert busy.value.retry_after_s >= 1
    for answer in held:
        engine.cancel(answer.request.request_id)
        assert answer.finished.reason == "cancelled"
    assert ask(engine, PROMPT, 4).finished.reason == "length"
    engine.close()


def test_the_more_urgent_request_goes_first(tmp_path):
    engine = tiny_engine(tmp_path, max_running=1)
    running = ask(engine, PROMPT, 200)
    running.next()
    order: list[str] = []
    lock = threading.Lock()

    def note(name: str):
        def on_event(event):
            with lock:
                if name not in order:
                    order.append(name)

        return on_event

    later = ask(engine, PROMPT, 2).request
    for name, priority in (("late", 0), ("urgent", 5)):
        fields = {**vars(later), "request_id": name, "priority": priority}
        engine.submit(type(later)(**fields), note(name))
    assert engine.drain(60)
    assert order == ["urgent", "late"]
    engine.close()


def test_a_broken_listener_does_not_stop_the_engine(engine, caplog):
    def broken(event):
        raise RuntimeError("listener")

    engine.submit(ask(engine, PROMPT, 1).wait().request, broken)
    assert ask(engine, PROMPT, 3).finished.reason == "length"
    assert "listener" in caplog.text


def test_closing_cancels_what_runs(tmp_path):
    engine = tiny_engine(tmp_path)
    answer = ask(engine, PROMPT, 900)
    answer.next()
    engine.close()
    assert answer.finished.reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        ask(engine, PROMPT)
