from pathlib import Path

import pytest

from heddle.errors import ConfigError
from heddle.train.run import load_recipe, resolved
from tests.train.small import RECIPE

RECIPES = sorted(Path(RECIPE).parent.glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_returns_a_run(path):
    assert resolved(load_recipe(str(path)))["fit"]["num_steps"] > 0


def test_a_name_is_a_file_in_recipes(monkeypatch):
    monkeypatch.chdir(Path(RECIPE).parents[1])
    assert load_recipe("tiny_pretrain").folder == Path("runs/tiny_pretrain")
    with pytest.raises(ConfigError, match="no recipe recipes/nothing.py.*tiny_pretrain"):
        load_recipe("nothing")


def test_a_recipe_must_have_a_function_of_its_name(tmp_path):
    (tmp_path / "other.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"must define a function other\(\)"):
        load_recipe(str(tmp_path / "other.py"))


def test_every_setting_of_loop_and_optimiser_is_documented():
    def paths(fields: dict, prefix: str) -> list[str]:
        return [
            path
            for name, value in fields.items()
            for path in (
                paths(value, f"{prefix}.{name}")
                if isinstance(value, dict)
                else [f"{prefix}.{name}"]
            )
        ]

    told = (Path(RECIPE).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    run = resolved(load_recipe(RECIPE))
    for path in [*paths(run["fit"], "fit"), *paths(run["optimiser"], "optimiser")]:
        assert f"`{path}`" in told, path
