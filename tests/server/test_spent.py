import pytest

from heddle.engine.request import Compute, TokenEvent
from heddle.server.spent import Routing, Spent
from heddle.text.tokenizer import Tokenizer
from tests.tiny import SPECIAL, tiny_tokenizer

CLUSTERS = ("factual", "creative")


def test_answers_count_by_their_tokens():
    spent = Spent(CLUSTERS)
    spent.add(
        Compute(
            loops={1: 2, 4: 1},
            clusters=(0.7, 0.3),
            active_params=100.0,
            flops=5e9,
            deepest_flops=9e9,
        )
    )
    spent.add(
        Compute(
            loops={4: 1}, clusters=(0.3, 0.7), active_params=200.0, flops=3e9, deepest_flops=3e9
        )
    )
    assert spent.flops == 8e9
    assert spent.as_json() == {
        "mean_loops": 2.5,
        "loops": {"1": 2, "4": 2},
        "clusters": {"factual": 0.6, "creative": 0.4},
        "active_params": 125,
        "flops": 8_000_000_000,
        "deepest_flops": 12_000_000_000,
    }


def test_nothing_computed_is_nothing_spent():
    spent = Spent(()).as_json()
    assert spent["flops"] == spent["mean_loops"] == 0 and spent["loops"] == {}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_routing_holds_the_whole_text_in_any_pieces(size):
    text = f"Grüße, 東京!{SPECIAL[2]}"
    tokenizer = Tokenizer(tiny_tokenizer().to_str())
    ids = tokenizer.encode(text, special=True)
    tokens = [
        TokenEvent(token_id=id, loops=number, clusters=(0.25, 0.75))
        for number, id in enumerate(ids, 1)
    ]
    routing = Routing(tokenizer, CLUSTERS)
    entries = [
        entry
        for start in range(0, len(tokens), size)
        for entry in routing.read(tokens[start : start + size])
    ]
    assert "".join(entry["token"] for entry in entries) == text
    assert [entry["loops"] for entry in entries] == list(range(1, len(ids) + 1))
    assert entries[0]["clusters"] == {"factual": 0.25, "creative": 0.75}
