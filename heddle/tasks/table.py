"""Every task by name. docs/data.md has the same table with a sentence on each."""

import difflib
from pathlib import Path

from heddle.errors import ConfigError
from heddle.tasks import (
    arithmetic,
    copying,
    cups,
    jsonl,
    list_operations,
    modular_chain,
    p_hop,
    permutations,
    reasoning_gym,
    recall,
    running_products,
)
from heddle.tasks.task import Task

TASKS: dict[str, Task] = {
    "p_hop": p_hop.TASK,
    "modular_chain": modular_chain.TASK,
    "s3_tracking": permutations.S3,
    "s5_tracking": permutations.S5,
    "cups": cups.TASK,
    "s3_product": running_products.S3_PRODUCT,
    "weekday": running_products.WEEKDAY,
    "affine": running_products.AFFINE,
    "list_operations": list_operations.TASK,
    "addition": arithmetic.ADDITION,
    "subtraction": arithmetic.SUBTRACTION,
    "multiplication": arithmetic.MULTIPLICATION,
    "passkey": recall.PASSKEY,
    "key_value_recall": recall.KEY_VALUE_RECALL,
    "copy": copying.COPY,
    "reverse": copying.REVERSE,
}


def find(name: str) -> Task:
    """Return a task: a name of the table, `reasoning_gym:NAME`, or the path of a JSONL file.

    Raises ConfigError when there is none such, and DataError when the file cannot be read.
    """
    if name in TASKS:
        return TASKS[name]
    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.find(name.removeprefix(reasoning_gym.PREFIX))
    if ".jsonl" in name:
        return jsonl.task(Path(name))
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
    raise ConfigError(
        f"no task is called {name!r}; "
        + (f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}")
    )
