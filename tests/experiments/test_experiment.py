import json

import pytest

from heddle.train.chart import Lines
from recipes.experiments.experiment import (
    BEGIN,
    END,
    Experiment,
    Table,
    collect,
    figures_block,
    over_seeds,
    read_page,
    run,
    write_page,
)


def tables(found):
    rows = [
        [arm, ", ".join(map(str, over_seeds(found, arm, lambda f: f["right"])))] for arm in found
    ]
    return [Table("Right", ["arm", "seeds"], rows)]


def panels(found):
    return [Lines(title="Right", x_label="seed", y_label="right", lines={"a": [(0, 1), (1, 2)]})]


EXPERIMENT = Experiment(
    name="coins",
    title="Coins",
    arms={"fair": lambda seed, full, folder: {"right": seed}},
    tables=tables,
    panels=panels,
    seeds=(0, 1),
)


def test_only_ended_trials_are_collected(tmp_path):
    (tmp_path / "fair-1.json").write_text('{"right": 1}')
    (tmp_path / "fair-0.log").write_text("killed")
    assert collect(EXPERIMENT, tmp_path) == {"fair": {1: {"right": 1}}}


def test_a_page_keeps_its_text_and_gets_the_figures(tmp_path):
    page = tmp_path / "coins.md"
    page.write_text(f"# Coins\n\n{BEGIN}\nold\n{END}\n\nWhy.\n")
    found = {"fair": {0: {"right": 3}, 1: {"right": 5}}}
    for _ in range(2):  # the second time changes nothing
        write_page(EXPERIMENT, found, "short", tmp_path)
        text = page.read_text()
        assert text.startswith("# Coins\n") and text.endswith("\n\nWhy.\n") and "old" not in text
        assert text.count("| fair | 3, 5 |") == 1
    assert read_page(EXPERIMENT, tmp_path) == found
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT, tmp_path)) in text
    assert json.loads((tmp_path / "coins.json").read_text())["form"] == "short"
    assert (tmp_path / "coins.svg").read_text().startswith("<svg")


def test_seeds_are_in_order():
    found = {"fair": {1: {"right": 5}, 0: {"right": 3}}}
    assert over_seeds(found, "fair", lambda figures: figures["right"]) == [3, 5]


def test_an_unknown_page_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_page(EXPERIMENT, {}, "short", tmp_path)


def test_part_of_an_experiment_says_so_instead_of_showing_tables(tmp_path, monkeypatch, capsys):
    home = tmp_path / "coins" / "short"
    home.mkdir(parents=True)
    (home / "fair-0.json").write_text('{"right": 1}')
    monkeypatch.setattr("sys.argv", ["coins", "--seed", "0", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run(EXPERIMENT)
    assert ended.value.code == 0
    assert "once every arm has every seed" in capsys.readouterr().out
