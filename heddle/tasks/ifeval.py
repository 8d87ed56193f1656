"""IFEval: does an answer keep to instructions that a program can check?

Zhou et al. 2023 (arXiv:2311.07911), whose checks these follow; rows hold `prompt` and `checks`, a
list of {instruction, kwargs}. Two checks count without NLTK, which the authors use: sentences, and
words in capitals. Those on language need langdetect (`pip install "heddle-lm[eval]"`).
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from heddle.errors import ConfigError, DataError
from heddle.tasks.data_folder import Row
from heddle.tasks.evaluation import Answer, Generation, Scores

_ONE_AT_A_TIME = threading.Lock()  # langdetect loads its profiles when first asked, unguarded
_MAX_TOKENS = 1280  # as lm-evaluation-harness v0.4
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
# A sentence ends with marks, then perhaps quotes or brackets, before a space; not after a title,
# an initial, or a number of a list.
_SENTENCE_END = re.compile(r"""[.!?]+["')\]]*(?=\s|$)""")
_NO_SENTENCE_END = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z])|^\d+)\.$", re.M
)


def question(row: Row) -> Generation:
    """Ask the prompt as it stands. Raises DataError for a check that is not known."""
    checks = [(check["instruction"], _given(check["kwargs"])) for check in row["checks"]]
    for name, _ in checks:
        if name not in CHECKS:
            raise DataError(f"IFEval has no instruction {name!r}, only {', '.join(CHECKS)}")

    def grade(answer: Answer) -> Scores:
        def all_kept(*variants: str) -> float:
            kept = (any(_keeps(text, name, given) for text in variants) for name, given in checks)
            return float(all(kept))

        return {
            "prompt_strict": all_kept(answer.text),
            "prompt_loose": all_kept(*_loose_variants(answer.text)),
        }

    return Generation(({"role": "user", "content": row["prompt"]},), _MAX_TOKENS, grade)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Other copies of the set have every argument in every row, mostly null."""
    return {name: value for name, value in arguments.items() if value is not None}


def _keeps(text: str, name: str, given: Mapping[str, Any]) -> bool:
    return bool(text.strip()) and CHECKS[name](text, **given)


def _loose_variants(text: str) -> list[str]:
    """Return the text without its first line, its last or both, each with and without asterisks."""
    lines = text.split("\n")
    cuts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [variant for cut in cuts for variant in (cut, cut.replace("*", ""))]


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in ("less than", "at least"):
        raise DataError(f"IFEval compares with 'less than' or 'at least', not {relation!r}")
    return count < bound if relation == "less than" else count >= bound


def _language(text: str) -> str | None:
    """Return the ISO 639-1 code of the text's language, None where it has no words."""
    try:
        import langdetect
    except ModuleNotFoundError as error:
        raise ConfigError(
            "IFEval checks languages with a package: pip install 'heddle-lm[eval]'"
        ) from error
    with _ONE_AT_A_TIME:
        langdetect.DetectorFactory.seed = 0  # otherwise it guesses differently each time
        try:
            return langdetect.detect(text)
        except langdetect.LangDetectException:
            return None


def _in_language(text: str, *, language: str) -> bool:
    return _language(text) in (language, None)


def _in_capitals(text: str) -> bool:
    return text.isupper() and _in_language(text, language="en")


def _in_lower_case(text: str) -> bool:
    return text.islower() and _in_language(text, language="en")


def _capital_words(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    words = re.findall(r"[^\W_](?:[\w.'’-]*\w)?", text)
    count = sum(word.isupper() for word in words)
    return _compare(count, capital_relation, capital_frequency)


def _sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def count_sentences(text: str) -> int:
    """Return the number of sentences; text after the last mark is one more."""
    count, start = 0, 0
    for end in _SENTENCE_END.finditer(text):
        if _NO_SENTENCE_END.search(text[start : end.end()].strip()):
            continue
        count += 1
        start = end.end()
    return count + bool(text[start:].strip())


def _words(text: str, *, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs stand between dividers; only the outermost may be empty."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner_are_full = all(part.strip() for part in parts[1:-1])
    return inner_are_full and sum(bool(part.strip()) for part in parts) == num_paragraphs


def _first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = text.split("\n\n")
    num_full = sum(bool(part.strip()) for part in parts)
    if num_full != num_paragraphs or nth_paragraph > num_full:
        return False
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    said = re.split(r"""[.,?!'"]""", words[0].lstrip("'").lstrip('"'))[0]
    return said.lower() == first_word.lower()


def _keywords(text: str, *, keywords: list[str]) -> bool:
    return all(re.search(keyword, text, re.I) for keyword in keywords)


def _keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(len(re.findall(keyword.strip(), text, re.I)), relation, frequency)


def _no_forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.I) for word in forbidden_words)


def _letters(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, *, postscript_marker: str) -> bool:
    spaced = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    marker = postscript_marker.strip()
    return re.search(spaced.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, *, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*]|-).*$", text, re.M)) == num_bullets


def _highlights(text: str, *, num_highlights: int) -> bool:
    """Text between double asterisks counts as the authors count it."""
    single = [found for found in re.findall(r"\*([^\n*]*)\*", text) if found.strip()]
    double = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", text) if found.strip()]
    return len(single) + len(double) >= num_highlights


def _sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{section_spliter.strip()}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    body = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.I)
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _title(text: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    full = [part for part in parts if part]
    return all(parts[1:-1]) and len(full) == 2 and full[0] != full[1]


def _repeats(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _in_capitals,
    "change_case:english_lowercase": _in_lower_case,
    "combination:repeat_prompt": _repeats,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text: any(map(text.__contains__, _OPTIONS)),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _no_forbidden_words,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letters,
    "language:response_language": _in_language,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}
