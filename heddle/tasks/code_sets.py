"""Python functions written to a docstring and run against tests: HumanEval, MBPP with types."""

from heddle.sandbox.run import run_python
from heddle.tasks.data_folder import Row
from heddle.tasks.evaluation import Answer, Generation, Scores

# Where a function's body is over: those of HumanEval's authors (Chen et al. 2021,
# arXiv:2107.03374, section 2.1), which MultiPL-E (arXiv:2208.08227) takes for MBPP too.
_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_TOKENS = 512  # the longest reference solution has under 300


def function_question(row: Row) -> Generation:
    """Ask for the body of a function whose head is the prompt, and run `tests` on it."""
    head = row["prompt"].rstrip("\n") + "\n"
    tests = row["tests"]

    def grade(answer: Answer) -> Scores:
        outcome = run_python(f"{head}{answer.text}\n{tests}")
        return {"pass_at_1": float(outcome.has_finished)}

    return Generation(head, _MAX_TOKENS, grade, stop=_STOP)
