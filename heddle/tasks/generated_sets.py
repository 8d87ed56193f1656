"""Sets that need no files: the project's own tasks, by what a model writes.

Only instances of the split "test" are asked, which no seed or difficulty brings into training.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from heddle.tasks.evaluation import Answer, Asked, EvalSet, Generation, Scores
from heddle.tasks.task import Example, Task

USUAL_LIMIT = 500

_SEED = 0
_SPARE_TOKENS = 64  # beyond the answer's own characters: room for a sentence around it
_MAX_REPEATS = 1000  # of instances already asked, after which a level counts as used up


def generated(
    name: str, task: Task, *, levels: Sequence[int], chance: float | None, bare: bool = False
) -> EvalSet:
    """Return the set of a task's test instances, of the levels in turn.

    A chat model is told what the prompt means; a `bare` prompt goes to the model as it stands, as
    small models learned it, and the answer must follow directly.
    """

    def ask(data: Path | None) -> Iterator[Asked]:
        sources = {level: _different(task, level) for level in levels}
        while sources:
            for level in list(sources):
                example = next(sources[level], None)
                if example is None:
                    del sources[level]
                    continue
                index, instance = example
                yield Asked(f"{name}-{level}-{index}", _question(task, instance, bare), str(level))

    return EvalSet(
        name=name,
        title=f"{task.needs} (n: {', '.join(map(str, levels))})",
        source="generated",
        licence="Apache-2.0",
        metric="accuracy",
        chance=chance,
        ask=ask,
        cluster=task.cluster,
        usual_limit=USUAL_LIMIT,
    )


def _different(task: Task, level: int) -> Iterator[tuple[int, Example]]:
    """Yield numbered instances, each once, until new ones no longer come."""
    seen: set[str] = set()
    index = last_new = 0
    while index - last_new <= _MAX_REPEATS:
        example = task.example("test", index, seed=_SEED, difficulty=level)
        if example.prompt not in seen:
            seen.add(example.prompt)
            last_new = index
            yield index, example
        index += 1


def _question(task: Task, example: Example, bare: bool) -> Generation:
    def grade(answer: Answer) -> Scores:
        return {"accuracy": task.score(example, answer.text)}

    max_tokens = len(example.answer) + _SPARE_TOKENS
    if bare:
        stop = () if "\n" in example.answer else ("\n",)
        return Generation(example.prompt, max_tokens, grade, stop=stop)
    messages = ({"role": "user", "content": task.asked(example)},)
    return Generation(messages, max_tokens, grade)
