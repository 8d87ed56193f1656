"""Who may import whom: the table of ARCHITECTURE.md, checked on every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "heddle"

OPEN = {"errors", "config"}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "kernels": set(),
    "text": OPEN,
    "client": OPEN | {"text"},
    "model": OPEN | {"kernels"},
    "weights": OPEN | {"model", "kernels"},
    "engine": OPEN | {"model", "weights", "kernels"},
    "server": OPEN | {"engine", "text"},
    "sandbox": OPEN,
    "tasks": OPEN | {"text", "sandbox"},
    "evals": OPEN | {"tasks", "client", "text"},
    "train": OPEN | {"weights", "model", "kernels", "tasks", "text"},
}
ANYTHING = {"cli", "bench", "__init__", "__main__"}
NO_TORCH = {"text", "client", "sandbox", "tasks", "evals", "errors", "config"}
# Extras, imported where they are used, so that they may be missing.
OPTIONAL = {"huggingface_hub", "reasoning_gym", "zstandard", "tensorboard", "langdetect"}


def modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if "ui" not in path.relative_to(ROOT).parts]


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.append((node.module or "", node))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path):
    part = part_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for name, node in imports(tree):
        if part in ANYTHING:
            continue
        words = name.split(".")
        if words[0] == "heddle" and len(words) > 1:
            assert words[1] == part or words[1] in ALLOWED[part], f"{part} may not import {name}"
        if words[0] == "torch":
            assert part not in NO_TORCH, f"{part} may not import torch"
        assert id(node) in top or words[0] in OPTIONAL, f"line {node.lineno}: import at the top"


def test_every_part_has_a_row():
    assert {part_of(path) for path in modules()} <= set(ALLOWED) | ANYTHING
