import pytest

from heddle.errors import DataError
from heddle.tasks import ifeval
from heddle.tasks.evaluation import Answer, Generation
from tests.tasks.data_files import asked

MORE, LESS = {"relation": "at least"}, {"relation": "less than"}

# instruction, arguments, a text that keeps it, one that does not
CASES = [
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NASA met the BBC.",
        "NASA met the Bbc.",
    ),
    ("change_case:english_capital", {}, "THIS IS ALL WRITTEN LARGE.", "This is not all large."),
    (
        "change_case:english_capital",
        {},
        "THIS IS WRITTEN IN ENGLISH.",
        "DAS IST EIN LANGER SATZ.",
    ),
    ("change_case:english_lowercase", {}, "this is all written small.", "This is not all small."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say a. "}, "say a. It is a.", "It is a."),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "One.\n******\nOne."),
    ("combination:two_responses", {}, "******One.******Two.", "One.******ha******Two."),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a] (b)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP. S. Bye.", "Hi. PS"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S Bye", "P.S. Bye"),
    ("detectable_format:constrained_response", {}, "Well: My answer is maybe.", "Maybe."),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "a: 1"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part one\na\nPart two\nb",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b\n1. c"),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*a* and *b*",
        "*a* and * *",
    ),
    ("detectable_format:title", {}, "<<A title>>\nText", "<A title>\n<< >>"),
    ("keywords:existence", {"keywords": ["lamp", "sea"]}, "A Lamp by the sea", "A lamp"),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "A search", "The Sea"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, **MORE}, "Sea, sea", "Sea"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, **LESS}, "Sea", "Sea sea"),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        "Quite quiet",
        "Quite so",
    ),
    ("language:response_language", {"language": "de"}, "Das ist doch schlimm.", "This is bad."),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'First.\n\n"Then, second.',
        "First.\n\nSecond.",
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "***\nOne\n***\nTwo\n***",
        "One\n***\n***\nTwo",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, **LESS},
        "A b. C d.",
        "Aha. So? Yes!",
    ),
    ("length_constraints:number_words", {"num_words": 3, **MORE}, "one two-three", "one two"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        'So "that is all."',
        "That is all. Bye",
    ),
    ("startend:quotation", {}, ' "All of it." ', '"Some" of it'),
]


def scores(folder, text: str, *checks: dict) -> dict[str, float]:
    [one] = asked(folder, "ifeval", {"prompt": "Write.", "checks": list(checks)})
    assert isinstance(one.question, Generation)
    return dict(one.question.grade(Answer(text)))


@pytest.mark.parametrize(("instruction", "kwargs", "good", "bad"), CASES)
def test_every_check(tmp_path, instruction: str, kwargs, good: str, bad: str):
    check = {"instruction": instruction, "kwargs": {**kwargs, "unused": None}}
    assert scores(tmp_path, good, check)["prompt_strict"] == 1
    assert scores(tmp_path, bad, check)["prompt_strict"] == 0


def test_every_check_has_a_case():
    assert {instruction for instruction, *_ in CASES} == set(ifeval.CHECKS)


def test_all_of_a_prompts_instructions_count(tmp_path):
    no_comma = {"instruction": "punctuation:no_comma", "kwargs": {}}
    quoted = {"instruction": "startend:quotation", "kwargs": {}}
    assert scores(tmp_path, '"a b"', no_comma, quoted)["prompt_strict"] == 1
    assert scores(tmp_path, '"a, b"', no_comma, quoted)["prompt_strict"] == 0


def test_loosely_a_first_or_last_line_and_asterisks_do_not_count(tmp_path):
    quoted = {"instruction": "startend:quotation", "kwargs": {}}
    text = 'Sure, here it is:\n**"All of it."**\nAnything else?'
    assert scores(tmp_path, text, quoted) == {"prompt_strict": 0, "prompt_loose": 1}


def test_nothing_keeps_to_nothing(tmp_path):
    no_comma = {"instruction": "punctuation:no_comma", "kwargs": {}}
    assert scores(tmp_path, " \n", no_comma) == {"prompt_strict": 0, "prompt_loose": 0}


def test_an_unknown_instruction_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no instruction 'style:haiku'"):
        scores(tmp_path, "a", {"instruction": "style:haiku", "kwargs": {}})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("It costs 3.50 at Dr. Smith's, e.g. today.", 1),
        ('"Go!" He left...', 2),
        ("1. First thing\n2. Second thing.", 1),
        ("No mark at the end", 1),
        ("Yes. And more", 2),
        ("", 0),
    ],
)
def test_sentences(text: str, count: int):
    assert ifeval.count_sentences(text) == count
