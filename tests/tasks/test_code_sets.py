import pytest

from heddle.tasks.evaluation import Answer, Generation
from tests.tasks.data_files import asked

ROW = {
    "prompt": 'def double(number: int) -> int:\n    """Return twice the number."""',
    "tests": "def check(candidate):\n    assert candidate(4) == 8\n\ncheck(double)\n",
}


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_a_body_is_run_on_the_tests(tmp_path, name: str):
    [one] = asked(tmp_path, name, ROW)
    question = one.question
    assert isinstance(question, Generation)
    assert question.prompt == f"{ROW['prompt']}\n"
    assert "\ndef" in question.stop
    assert question.grade(Answer("    return 2 * number\n")) == {"pass_at_1": 1.0}
    assert question.grade(Answer("    return number\n")) == {"pass_at_1": 0.0}
    assert question.grade(Answer("    return 2 * (number\n")) == {"pass_at_1": 0.0}
    assert question.grade(Answer("    raise SystemExit(0)\n")) == {"pass_at_1": 0.0}
