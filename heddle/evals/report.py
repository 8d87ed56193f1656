"""A comparison as Markdown and as one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape

from heddle.evals.comparison import Cell, Table

TITLE = "Evaluation"
BAR_WIDTH, BAR_HEIGHT = 120, 12

STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --back: #ffffff; --line: #d1d9e0;
  --faint: #59636e; --track: #eaeef2; --mark: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --line: #3d444d;
  --faint: #9198a1; --track: #262c36; --mark: #56b4e9 } }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: var(--text);
  background: var(--back); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin: 2rem 0 0.25rem }
p { margin: 0.25rem 0 0.75rem; color: var(--faint); max-width: 50rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 0.4rem 0.9rem 0.4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line) }
thead th { vertical-align: bottom; color: var(--faint); font-weight: 600 }
tbody th { font-weight: 600 } small { display: block; color: var(--faint);
  white-space: nowrap }
svg { display: block; margin-top: 0.2rem }
.track { fill: var(--track) } .interval { fill: var(--mark); opacity: 0.45 }
.value { fill: var(--mark) } .chance { stroke: var(--text); stroke-dasharray: 2 2 }
"""


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables in Markdown."""
    parts = [f"# {TITLE}"]
    for title, note, columns, rows in tables:
        lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(map(_text, row))} |" for row in rows]
        parts += [f"## {title}", *([note] if note else []), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.detail})" if cell.detail else cell.text


def as_html(tables: Sequence[Table]) -> str:
    """Return the tables as a page; shares have a picture of their interval, with chance marked."""
    body = "\n".join(map(_section, tables))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{TITLE}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{TITLE}</h1>\n{body}\n</main>\n"
        f"</body>\n</html>\n"
    )


def _section(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(first.text)}</th>{"".join(map(_cell, others))}</tr>'
        for first, *others in table.rows
    )
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    return (
        f"<section>\n<h2>{escape(table.title)}</h2>\n{note}"
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f"</table></div>\n</section>"
    )


def _cell(cell: Cell) -> str:
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td>{escape(cell.text)}{detail}{_bar(cell)}</td>"


def _bar(cell: Cell) -> str:
    if cell.share is None:
        return ""
    value, low, high = (bound * BAR_WIDTH for bound in cell.share[:3])
    chance = ""
    if cell.chance is not None:
        x = cell.chance * BAR_WIDTH
        chance = f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{BAR_HEIGHT}"/>'
    return (
        f'<svg width="{BAR_WIDTH}" height="{BAR_HEIGHT}" aria-hidden="true">'
        f'<rect class="track" y="4" width="{BAR_WIDTH}" height="4" rx="2"/>'
        f'<rect class="interval" x="{low:.1f}" y="3" width="{high - low:.1f}" height="6" rx="2"/>'
        f'<rect class="value" x="{value - 1.5:.1f}" y="1" width="3" height="10" rx="1"/>'
        f"{chance}</svg>"
    )
