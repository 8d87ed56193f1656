"""The report's figures against asking the model one question at a time, as serving does."""

import json

import pytest
import torch

from heddle.model.batch import pack
from heddle.model.config import CLUSTERS
from heddle.model.transformer import Transformer
from heddle.tasks.table import TASKS
from heddle.tasks.task import Example, Task
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.vocabulary import BYTES_ONLY, END_TOKEN, train_tokenizer
from heddle.train.report import LOSS_POINTS, by_loops, cluster_shares, loss_curve, write
from tests.model.test_adaptive import FABRIC, THINK, lively
from tests.tiny import tiny_config

TOKENIZER = Tokenizer(train_tokenizer([]))
END_ID = TOKENIZER.control_tokens[END_TOKEN]
LOOPS = 3


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Give a random model that says digits and ends."""
    network = lively(
        tiny_config(
            num_layers=4,
            fabric=FABRIC,
            think=THINK,
            vocab_size=BYTES_ONLY,
            tied_embeddings=False,
        )
    )
    said = [END_ID, *(TOKENIZER.encode(digit)[0] for digit in "0123456789")]
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.weight[said] = torch.randn(len(said), network.config.width)
    return network.eval()


def said_alone(model: Transformer, prompt: str) -> str | None:
    """Decode greedily, one sequence, one token at a time; None when it does not end."""
    ids, said = TOKENIZER.encode(prompt), []
    while len(said) < 6:
        token = int(model(pack([ids + said], loops=LOOPS)).logits_NV[-1].argmax())
        if token == END_ID:
            return TOKENIZER.decode(said)
        said.append(token)
    return None


def test_an_answer_is_right_when_the_model_says_it_and_ends(model):
    with torch.inference_mode():
        said = {f"{number}?": said_alone(model, f"{number}?") for number in range(150)}
    right = [Example(prompt=prompt, answer=text) for prompt, text in said.items() if text]
    longer = [Example(prompt=each.prompt, answer=each.answer + "7") for each in right]
    other = [Example(prompt=each.prompt, answer=f"7{each.answer}"[:-1]) for each in right]
    other = [each for each in other if each.answer != said[each.prompt]]
    assert len(right) > 10
    assert len({len(each.answer) for each in right}) > 1
    examples = [*right, *longer, *other]
    task = Task(
        name="digits",
        cluster=None,
        instruction="",
        needs="",
        difficulties=range(1),
        source=lambda split, seed, difficulty, index: examples[index],
    )
    level = by_loops(
        model,
        TOKENIZER,
        task,
        end_id=END_ID,
        difficulty=0,
        loops=(1, LOOPS),
        num_examples=len(examples),
    )
    assert level.accuracy[LOOPS] == len(right) / len(examples)
    assert level.token_flops[LOOPS] > 1.5 * level.token_flops[1]


def test_cluster_shares_are_the_gates_own(model):
    name, num_examples = "addition", 20
    shares = cluster_shares(model, TOKENIZER, [(TASKS[name], 2)], num_examples=num_examples)
    total, num_tokens = torch.zeros(len(CLUSTERS)), 0
    with torch.inference_mode():
        for example in TASKS[name].examples("test", difficulty=2, count=num_examples):
            ids = TOKENIZER.encode(example.prompt)
            total += model(pack([ids])).trace.cluster_TG.sum(0)
            num_tokens += len(ids)
    assert shares[name] == pytest.approx((total / num_tokens).tolist(), abs=1e-5)


def test_a_long_run_s_loss_is_averaged_and_keeps_its_tokens(tmp_path):
    steps = range(1, 3 * LOSS_POINTS + 1)
    lines = [{"tokens": 10 * step, "cross_entropy": float(step)} for step in steps]
    lines[1]["cross_entropy"] = None  # a step that was skipped
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    points = loss_curve(tmp_path, "cross_entropy")
    assert len(points) == LOSS_POINTS
    assert points[0] == (40, pytest.approx((1 + 3 + 4) / 3))
    assert points[-1][0] == lines[-1]["tokens"]


def test_the_numbers_lie_beside_the_picture(model, tmp_path):
    level = by_loops(
        model,
        TOKENIZER,
        TASKS["cups"],
        end_id=END_ID,
        difficulty=5,
        loops=(1, 2),
        num_examples=4,
    )
    shares = {"cups": [0.2] * len(CLUSTERS)}
    write(
        tmp_path / "report",
        title="A title",
        levels=[level],
        shares=shares,
        losses={"training": [(1, 2.0), (2, 1.0)]},
    )
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert numbers["levels"][0]["token_flops"]["2"] == level.token_flops[2]
    assert numbers["cluster_shares"] == shares
    assert "5 moves" in (tmp_path / "report" / "report.svg").read_text(encoding="utf-8")
