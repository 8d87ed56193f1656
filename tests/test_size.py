"""Files, functions and parameter lists stay small enough to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
# Each exception carries its reason.
LONG_FUNCTIONS: dict[str, str] = {}

SOURCES = [
    path
    for folder in ("heddle", "tests", "recipes", "bench")
    for pattern in ("*.py", "*.cpp", "*.ts", "*.svelte")
    for path in (ROOT / folder).rglob(pattern)
    if not {"node_modules", "dist"} & set(path.parts)
]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_files_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".py"], ids=label)
def test_functions_are_short(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = f"{label(path)}::{node.name}"
        if name not in LONG_FUNCTIONS:
            num_lines = node.end_lineno - node.lineno + 1
            assert num_lines <= MAX_FUNCTION_LINES, f"{name} has {num_lines} lines"
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        num_parameters = len([a for a in named if a.arg not in ("self", "cls")])
        if path.is_relative_to(ROOT / "heddle" / "cli"):
            continue  # a command's parameters are its options
        assert num_parameters <= MAX_PARAMETERS, f"{name} has {num_parameters} parameters"
