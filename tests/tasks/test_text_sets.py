from heddle.tasks.evaluation import Continuation, Passage
from heddle.tasks.sets import SETS
from heddle.tasks.text_sets import WIKITEXT_FILE, tidy
from tests.tasks.data_files import asked

CORPUS = """\

 = First =

 It was 3 @.@ 5 km ( 2 mi ) long , they said .

 = = Part = =

 " Yes " ; well @-@ known .

 = Second ( film ) =

 The end .
"""


def test_lambada_asks_for_the_last_word_after_a_space(tmp_path):
    [one] = asked(tmp_path, "lambada", {"prompt": "She lit the", "answer": "lamp"})
    assert one.question == Continuation("She lit the", " lamp")


def test_wikitext_is_cut_into_articles_and_tidied(tmp_path):
    lines = [f"{line} " if line else " " for line in CORPUS.splitlines()]
    (tmp_path / WIKITEXT_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, second = SETS["wikitext2"].questions(tmp_path)
    assert isinstance(first.question, Passage)
    assert isinstance(second.question, Passage)
    assert first.question.text == (
        " = First =\n\nIt was 3.5 km (2 mi) long, they said.\n\n== Part ==\n\n"
        '"Yes"; well-known.\n\n'
    )
    assert second.question.text.startswith(" = Second (film) =")
    assert [first.id, second.id] == ["wikitext2-1", "wikitext2-2"]


def test_words_and_bytes_are_those_of_the_corpus(tmp_path):
    article = " = Café = \n \n One , two . \n"
    (tmp_path / WIKITEXT_FILE).write_text(article, encoding="utf-8")
    [one] = SETS["wikitext2"].questions(tmp_path)
    assert isinstance(one.question, Passage)
    # Split at white space, with the empty words at both ends, as the harness counts.
    assert one.question.num_words == len(["", "=", "Café", "=", "One", ",", "two", ".", ""])
    assert one.question.num_bytes == len(article) + 1


def test_tidying_goes_mark_by_mark():
    assert tidy("who ? ! Jr. , it 's a 10 @,@ 000 N man") == "who ?! Jr., it's a 10,000 1 man"
