import pytest

from heddle.cli.options import engine_config, loops
from heddle.engine.config import EngineConfig
from heddle.errors import ConfigError


def test_speculation_is_a_switch():
    given = {"threads": 1, "context_length": None, "dtype": "float32"}
    assert engine_config(**given).draft_tokens == EngineConfig().draft_tokens > 0
    assert engine_config(**given, speculation=False).draft_tokens == 0


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "10000"])
def test_other_depths_are_refused(text):
    with pytest.raises(ConfigError, match="think must be auto or a number"):
        loops(text)
