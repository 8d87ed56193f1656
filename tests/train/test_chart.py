"""The drawing says what it was given: parsed as XML, measured in its own axes."""

from xml.etree import ElementTree

import pytest

from heddle.train.chart import LABEL_HEIGHT, Lines, Shares, draw

SVG = "{http://www.w3.org/2000/svg}"


def elements(panel: Lines | Shares, kind: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(draw([panel], title="a < b")).iter(SVG + kind))


def lines(**changes) -> Lines:
    fields = {"title": "t", "x_label": "x", "y_label": "y", "lines": {"one": [(1, 0), (32, 1)]}}
    return Lines(**(fields | changes))


def places(panel: Lines) -> list[list[tuple[float, ...]]]:
    return [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in elements(panel, "polyline")
    ]


def test_powers_of_two_are_evenly_spaced_on_a_logarithmic_axis():
    [line] = places(lines(lines={"one": [(1, 0), (4, 0.5), (16, 1)]}, is_log_x=True, is_share=True))
    (first, _), (second, _), (third, _) = line
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_a_share_of_one_is_at_the_top_mark_and_of_zero_at_the_bottom_mark():
    panel = lines(is_share=True)
    [[(_, bottom), (_, top)]] = places(panel)
    marks = {mark.text: float(mark.attrib["y"]) - 4 for mark in elements(panel, "text")}
    assert (marks["100%"], marks["0%"]) == (top, bottom)


def test_lines_that_end_together_have_names_apart():
    same = [(1, 0.5), (2, 0.5)]
    panel = lines(lines={"one": same, "two": same, "three": same})
    heights = sorted(
        float(text.attrib["y"])
        for text in elements(panel, "text")
        if text.text in panel.lines and "style" in text.attrib
    )
    assert len(heights) == 3
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= LABEL_HEIGHT


def test_a_table_is_darker_where_a_share_is_larger():
    panel = Shares(title="t", columns=("a", "b"), rows={"one": (0.9, 0.1), "two": (0.2, 0.8)})
    said = [text.text or "" for text in elements(panel, "text")]
    assert [word for word in said if word.endswith("%")] == ["90%", "10%", "20%", "80%"]
    darkness = [float(cell.attrib["fill-opacity"]) for cell in elements(panel, "rect")]
    assert sorted(darkness, reverse=True) == [darkness[i] for i in (0, 3, 2, 1)]
