"""Sets of running text, scored by likelihood: LAMBADA's last words, WikiText's articles."""

import re
from collections.abc import Iterator
from pathlib import Path

from heddle.tasks.data_folder import Row, find_file
from heddle.tasks.evaluation import Asked, Continuation, Passage
from heddle.tasks.rows import read_lines

WIKITEXT_FILE = "wikitext2_valid.txt"

_HEADING = re.compile(r" = [^=].* = \n")  # " = = Section = = \n" is one of a section

# How spaces that the tokenised corpus put around marks are taken out again, in this order: the
# rules of lm-evaluation-harness v0.4, which come from Megatron-LM.
_TIDY = (
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),
    (r" @([-,.])@ ", r"\1"),
    *((rf" \{mark} ", f"{mark} ") for mark in ":;.!?,"),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)


def lambada_question(row: Row) -> Continuation:
    """Ask for a passage's last word (Paperno et al. 2016, arXiv:1606.06031)."""
    return Continuation(row["prompt"], f" {row['answer']}")


def ask_wikitext(data: Path | None) -> Iterator[Asked]:
    """Yield WikiText-2's articles (Merity et al. 2016, arXiv:1609.07843).

    Words and bytes are the corpus's own, before its text is tidied.
    """
    for number, article in enumerate(wikitext_articles(find_file(data, WIKITEXT_FILE)), 1):
        num_words = len(re.split(r"\s+", article))
        passage = Passage(tidy(article), num_words, len(article.encode()))
        yield Asked(f"wikitext2-{number}", passage)


def wikitext_articles(path: Path) -> Iterator[str]:
    """Yield articles from heading to heading, as they stand."""
    article: list[str] = []
    for line in read_lines(path):
        starts = _HEADING.fullmatch(line) is not None
        if starts and article:
            yield "".join(article)
            article = []
        if starts or article:
            article.append(line)
    if article:
        yield "".join(article)


def tidy(text: str) -> str:
    """Return a tokenised text as people write it, nearly."""
    for pattern, replacement in _TIDY:
        text = re.sub(pattern, replacement, text)
    return text
