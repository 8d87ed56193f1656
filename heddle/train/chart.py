"""Line charts and tables of shares as one SVG, which looks right on a light and on a dark page.

Called by `report`. A drawing of a few panels needs no plotting library: SVG is text, and the
reader's colour scheme decides its colours (https://www.w3.org/TR/mediaqueries-5/).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

PANEL_WIDTH, PANEL_HEIGHT = 430, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 76, 40, 44  # around a panel's plot; lines are named at the right
LABEL_HEIGHT = 13
# Okabe and Ito's colours, which readers with any colour vision can tell apart
# (https://jfly.uni-koeln.de/color/); the last is the text's own.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "currentColor")
STYLE = """
svg { background: #ffffff; color: #1f2328; font: 12px system-ui, sans-serif }
text { fill: currentColor } .faint { stroke: currentColor; opacity: 0.15 } .quiet { opacity: 0.7 }
.title { font-size: 14px; font-weight: 600 } .number { font-size: 11px }
@media (prefers-color-scheme: dark) { svg { background: #0d1117; color: #e6edf3 } }
"""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A panel of named lines; on a logarithmic axis of x the powers of two are marked.

    `share` says that y is a share: its axis goes from 0 to 1 and is marked in percent.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]
    is_log_x: bool = False
    is_share: bool = False


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A panel with a table of shares, each cell the darker the larger it is."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float]]


def draw(panels: Sequence[Lines | Shares], *, title: str) -> str:
    """Return the text of an SVG with the panels, two in a row."""
    num_rows = math.ceil(len(panels) / 2)
    width, height = 2 * PANEL_WIDTH, num_rows * PANEL_HEIGHT + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        _text(width / 2, 24, title, anchor="middle", kind="title"),
    ]
    for number, panel in enumerate(panels):
        x, y = number % 2 * PANEL_WIDTH, number // 2 * PANEL_HEIGHT + 34
        body = _lines(panel) if isinstance(panel, Lines) else _shares(panel)
        heading = _text(LEFT, 22, panel.title, kind="title")
        parts.append(f'<g transform="translate({x} {y})">{heading}{"".join(body)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _lines(panel: Lines) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    x_ticks = _ticks([x for x, _ in points], is_log=panel.is_log_x)
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if panel.is_share else _ticks([0, *(y for _, y in points)])
    across, up = math.log2 if panel.is_log_x else float, float

    def x_of(x: float) -> float:
        low, high = across(x_ticks[0]), across(x_ticks[-1])
        share = (across(x) - low) / (high - low)
        return round(LEFT + share * (PANEL_WIDTH - LEFT - RIGHT), 1)

    def y_of(y: float) -> float:
        share = (up(y) - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(PANEL_HEIGHT - BOTTOM - share * (PANEL_HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for y in y_ticks:
        said = f"{y:.0%}" if panel.is_share else f"{y:g}"
        parts.append(_text(LEFT - 6, y_of(y) + 4, said, anchor="end", kind="number"))
        parts.append(
            f'<path class="faint" d="M{LEFT} {y_of(y)}H{PANEL_WIDTH - RIGHT}" fill="none"/>'
        )
    foot = PANEL_HEIGHT - BOTTOM
    for x in x_ticks:
        parts.append(_text(x_of(x), foot + 16, _short(x), anchor="middle", kind="number"))
    middle = (LEFT + PANEL_WIDTH - RIGHT) / 2
    parts.append(_text(middle, foot + 34, panel.x_label, anchor="middle", kind="quiet"))
    parts.append(_text(LEFT, TOP - 4, panel.y_label, kind="quiet number"))
    ends = {name: y_of(line[-1][1]) for name, line in panel.lines.items()}
    label_y = _spread(ends)
    for (name, line), colour in zip(panel.lines.items(), COLOURS, strict=False):
        path = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) < 20:
            parts += [
                f'<circle cx="{x_of(x)}" cy="{y_of(y)}" r="3" fill="{colour}"/>' for x, y in line
            ]
        place = x_of(line[-1][0]) + 8
        parts.append(
            f'<text x="{place}" y="{label_y[name] + 4}" class="number" '
            f'style="fill:{colour}">{escape(name)}</text>'
        )
    return parts


def _shares(panel: Shares) -> list[str]:
    name_width = 104
    width = (PANEL_WIDTH - LEFT - name_width - 12) / len(panel.columns)
    height = min(36.0, (PANEL_HEIGHT - TOP - BOTTOM) / max(len(panel.rows), 1))
    parts = []
    for column, name in enumerate(panel.columns):
        x = LEFT + name_width + (column + 0.5) * width
        parts.append(_text(x, TOP + 10, name, anchor="middle", kind="number"))
    for row, (name, shares) in enumerate(panel.rows.items()):
        y = TOP + 20 + row * height
        parts.append(_text(LEFT, y + height / 2 + 4, name))
        for column, share in enumerate(shares):
            x = LEFT + name_width + column * width
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height - 2:.1f}" '
                f'rx="3" fill="{COLOURS[0]}" fill-opacity="{0.08 + 0.72 * share:.2f}"/>'
            )
            middle = y + height / 2 + 3
            parts.append(
                _text(x + width / 2 - 1, middle, f"{share:.0%}", anchor="middle", kind="number")
            )
    return parts


def _ticks(values: Sequence[float], *, is_log: bool = False) -> list[float]:
    """Return round marks from below the smallest value to above the largest."""
    low, high = min(values), max(values)
    if is_log:
        first = math.floor(math.log2(low))
        return [
            2.0**power for power in range(first, max(first + 1, math.ceil(math.log2(high))) + 1)
        ]
    rough = (high - low or 1.0) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first = math.floor(low / step)
    return [step * number for number in range(first, math.ceil(high / step) + 1)]


def _spread(wanted: Mapping[str, float]) -> dict[str, float]:
    """Move labels down until none hides another."""
    placed: dict[str, float] = {}
    last = -math.inf
    for name in sorted(wanted, key=lambda name: wanted[name]):
        placed[name] = last = max(wanted[name], last + LABEL_HEIGHT)
    return placed


def _short(value: float) -> str:
    """Return a number of at most four figures, as in 2.5M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
