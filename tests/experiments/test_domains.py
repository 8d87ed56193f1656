import re

import torch

from heddle.model.config import CLUSTERS
from recipes.experiments import domain_training
from recipes.experiments.domain_training import DOMAINS, held_out
from recipes.experiments.domains import DOCUMENT_TOKENS, MARKS, SENTENCES, DomainDocuments


def texts(domain, split, count=200):
    source = DomainDocuments(domain, split=split, label=0)
    return [bytes(source.read(index).token_N.tolist()).decode() for index in range(count)]


def test_there_is_a_domain_for_each_cluster():
    assert DOMAINS == CLUSTERS


def test_domains_share_their_letters_and_splits_no_document():
    for domain in SENTENCES:
        train, test = texts(domain, "train"), texts(domain, "test")
        assert not set(train) & set(test)
        assert {len(text) for text in train + test} == {DOCUMENT_TOKENS}
        assert set("abcdefghijklmnop") <= set("".join(train))
    marks = [set("".join(texts(domain, "test"))) & set(MARKS) for domain in SENTENCES]
    assert sum(map(len, marks)) == len(set().union(*marks)) == len(MARKS)


def test_what_is_right_is_right_in_every_split():
    for domain in ("factual", "spatial", "symbolic", "safety"):
        answers = {}
        for text in texts(domain, "train") + texts(domain, "test"):
            sentences = [text[place : place + 4] for place in range(64) if text[place] in MARKS]
            for sentence in sentences:
                if len(sentence) == 4:
                    assert answers.setdefault(sentence[:3], sentence[3]) == sentence[3]
        assert len(answers) > 60  # all steps from all cells are 64


def test_calculations_add_up():
    [text] = texts("symbolic", "test", 1)
    sentence = text[text.index("*") :][:4]
    a, b, product = ("abcdefghijklmnop".index(letter) for letter in sentence[1:])
    assert a * b % 16 == product


def test_random_labels_say_nothing_of_the_domain():
    source = DomainDocuments("factual", split="train", label=None)
    labels = [source.read(index).cluster for index in range(500)]
    assert torch.bincount(torch.tensor(labels), minlength=5).min() > 60
    assert labels == [source.read(index).cluster for index in range(500)]


def test_answers_are_the_third_letters_after_a_mark(monkeypatch):
    monkeypatch.setattr(domain_training, "NUM_HELD_OUT", 3)
    held = held_out("test")["safety"]
    told = bytes(held.target_T[held.is_answer_T].tolist()).decode()
    expected = [re.findall(r"\?..(.)", text) for text in texts("safety", "test", 3)]
    assert list(told) == sum(expected, [])
