"""Every evaluation set by name. docs/eval.md has the same table, with the format of the files.

Nothing here is ever trained on: these files are no training sources, and generated sets ask
instances of the test split.
"""

import difflib

from heddle.errors import ConfigError
from heddle.tasks import bfcl, ifeval, reasoning_gym, table
from heddle.tasks.choice_sets import (
    as_it_stands,
    as_passage,
    as_question,
    choices_ask,
    mmlu_ask,
    winogrande_question,
)
from heddle.tasks.code_sets import function_question
from heddle.tasks.data_folder import asked_from
from heddle.tasks.evaluation import EvalSet
from heddle.tasks.generated_sets import generated
from heddle.tasks.reasoning_sets import (
    GSM8K_FILE,
    GSM8K_SHOTS_FILE,
    ask_gsm8k,
    gsm8k_chat_question,
    puzzle_name,
    reasoning_gym_question,
)
from heddle.tasks.text_sets import WIKITEXT_FILE, ask_wikitext, lambada_question

BARE_PREFIX = "bare:"

# Levels that a set of a task asks in turn, and what guessing gets.
_LEVELS: dict[str, tuple[tuple[int, ...], float | None]] = {
    "p_hop": ((1, 2, 4, 8, 16), 1 / 4),
    "modular_chain": ((4, 8, 16), 1 / 7),
    "s3_tracking": ((8, 16, 32), 1 / 6),
    "s5_tracking": ((4, 8, 16), 1 / 120),
    "cups": ((4, 8, 16), 1 / 5),
    "list_operations": ((2, 4, 8), 1 / 10),
    "addition": ((2, 3, 4, 6), None),
    "subtraction": ((2, 3, 4, 6), None),
    "multiplication": ((2, 3, 4), None),
    "passkey": ((128, 512, 2048), None),
    "key_value_recall": ((8, 32, 128), None),
    "copy": ((4, 16, 64), None),
    "reverse": ((4, 16, 64), None),
}

_FILES: tuple[EvalSet, ...] = (
    EvalSet(
        name="arc_easy",
        title="school science, four choices",
        source="AI2 Reasoning Challenge, easy, test (arXiv:1803.05457)",
        licence="CC-BY-SA-4.0",
        metric="accuracy_by_length",
        chance=1 / 4,
        files=("arc_easy.jsonl",),
        ask=choices_ask("arc_easy.jsonl", as_question),
        cluster="factual",
    ),
    EvalSet(
        name="arc_challenge",
        title="harder school science, four choices",
        source="AI2 Reasoning Challenge, challenge, test (arXiv:1803.05457)",
        licence="CC-BY-SA-4.0",
        metric="accuracy_by_length",
        chance=1 / 4,
        files=("arc_challenge.jsonl",),
        ask=choices_ask("arc_challenge.jsonl", as_question),
        cluster="factual",
    ),
    EvalSet(
        name="piqa",
        title="which of two ways of doing something works",
        source="PIQA, validation (arXiv:1911.11641)",
        licence="AFL-3.0",
        metric="accuracy_by_length",
        chance=1 / 2,
        files=("piqa.jsonl",),
        ask=choices_ask("piqa.jsonl", as_question),
    ),
    EvalSet(
        name="winogrande",
        title="whom a sentence speaks of, two choices",
        source="WinoGrande XL, validation (arXiv:1907.10641)",
        licence="CC-BY-4.0",
        metric="accuracy",
        chance=1 / 2,
        files=("winogrande.jsonl",),
        ask=asked_from("winogrande.jsonl", winogrande_question),
    ),
    EvalSet(
        name="openbookqa",
        title="elementary science that takes a step, four choices",
        source="OpenBookQA, test (arXiv:1809.02789)",
        licence="Apache-2.0",
        metric="accuracy_by_length",
        chance=1 / 4,
        files=("openbookqa.jsonl",),
        ask=choices_ask("openbookqa.jsonl", as_it_stands),
        cluster="factual",
    ),
    EvalSet(
        name="copa",
        title="cause or effect, two choices",
        source="COPA, validation (Roemmele et al. 2011)",
        licence="BSD-2-Clause",
        metric="accuracy",
        chance=1 / 2,
        files=("copa.jsonl",),
        ask=choices_ask("copa.jsonl", as_it_stands),
    ),
    EvalSet(
        name="boolq",
        title="yes or no, from a passage",
        source="BoolQ, validation (arXiv:1905.10044)",
        licence="CC-BY-SA-3.0",
        metric="accuracy",
        chance=1 / 2,
        files=("boolq.jsonl",),
        ask=choices_ask("boolq.jsonl", as_passage),
        cluster="factual",
    ),
    EvalSet(
        name="mmlu",
        title="57 subjects of school and university, four choices, no examples",
        source="MMLU, test (arXiv:2009.03300)",
        licence="MIT",
        metric="accuracy",
        chance=1 / 4,
        files=("mmlu.jsonl",),
        ask=mmlu_ask("mmlu.jsonl"),
        cluster="factual",
    ),
    EvalSet(
        name="mmlu_5shot",
        title="the same after five worked questions of the subject",
        source="MMLU, test and dev (arXiv:2009.03300)",
        licence="MIT",
        metric="accuracy",
        chance=1 / 4,
        files=("mmlu.jsonl", "mmlu_fewshot_dev.jsonl"),
        ask=mmlu_ask("mmlu.jsonl", shots_file="mmlu_fewshot_dev.jsonl"),
        cluster="factual",
    ),
    EvalSet(
        name="lambada",
        title="the last word of a passage",
        source="LAMBADA, OpenAI's form, test (arXiv:1606.06031)",
        licence="CC-BY-4.0",
        metric="accuracy",
        chance=None,
        files=("lambada.jsonl",),
        ask=asked_from("lambada.jsonl", lambada_question),
        cluster="creative",
    ),
    EvalSet(
        name="wikitext2",
        title="articles of an encyclopedia",
        source="WikiText-2, validation (arXiv:1609.07843)",
        licence="CC-BY-SA-3.0",
        metric="word_perplexity",
        chance=None,
        files=(WIKITEXT_FILE,),
        ask=ask_wikitext,
        cluster="factual",
    ),
    EvalSet(
        name="gsm8k",
        title="word problems after five worked ones",
        source="GSM8K, test and train (arXiv:2110.14168)",
        licence="MIT",
        metric="accuracy",
        chance=None,
        files=(GSM8K_FILE, GSM8K_SHOTS_FILE),
        ask=ask_gsm8k,
        cluster="symbolic",
    ),
    EvalSet(
        name="gsm8k_chat",
        title="the same asked in a chat, no examples",
        source="GSM8K, test (arXiv:2110.14168)",
        licence="MIT",
        metric="accuracy_last_number",
        chance=None,
        files=(GSM8K_FILE,),
        ask=asked_from(GSM8K_FILE, gsm8k_chat_question),
        cluster="symbolic",
    ),
    EvalSet(
        name="humaneval",
        title="Python functions from docstrings, run on tests",
        source="HumanEval (arXiv:2107.03374)",
        licence="MIT",
        metric="pass_at_1",
        chance=None,
        files=("humaneval.jsonl",),
        ask=asked_from("humaneval.jsonl", function_question),
        cluster="symbolic",
    ),
    EvalSet(
        name="mbpp",
        title="short Python functions from a sentence, run on tests",
        source="MBPP with types, from MultiPL-E (arXiv:2108.07732, 2208.08227)",
        licence="CC-BY-4.0",
        metric="pass_at_1",
        chance=None,
        files=("mbpp_typed.jsonl",),
        ask=asked_from("mbpp_typed.jsonl", function_question),
        cluster="symbolic",
    ),
    EvalSet(
        name="ifeval",
        title="instructions that a program can check",
        source="IFEval (arXiv:2311.07911)",
        licence="Apache-2.0",
        metric="prompt_strict",
        chance=None,
        files=("ifeval.jsonl",),
        ask=asked_from("ifeval.jsonl", ifeval.question),
    ),
    EvalSet(
        name="bfcl",
        title="single calls of functions, without those on Java and JavaScript",
        source="Berkeley Function-Calling Leaderboard v4, single turn",
        licence="Apache-2.0",
        metric="accuracy",
        chance=None,
        files=(bfcl.FILE,),
        ask=bfcl.ask,
    ),
    EvalSet(
        name="reasoning_gym",
        title="puzzles of about a hundred kinds",
        source="reasoning-gym 0.1.25 (arXiv:2505.24760)",
        licence="Apache-2.0",
        metric="accuracy",
        chance=None,
        files=("reasoning_gym.jsonl",),
        ask=asked_from("reasoning_gym.jsonl", reasoning_gym_question, group=puzzle_name),
    ),
)

SETS: dict[str, EvalSet] = {each.name: each for each in _FILES} | {
    name: generated(name, table.TASKS[name], levels=levels, chance=chance)
    for name, (levels, chance) in _LEVELS.items()
}


def find_set(name: str) -> EvalSet:
    """Return a set of the table, or one of a task: `TASK@LEVEL`, `bare:TASK`, `bare:TASK@LEVEL`.

    TASK is one of tasks.table or `reasoning_gym:NAME`. Raises ConfigError when there is none such.
    """
    if name in SETS:
        return SETS[name]
    task_name, at, level = name.removeprefix(BARE_PREFIX).partition("@")
    if task_name not in table.TASKS and not task_name.startswith(reasoning_gym.PREFIX):
        near = difflib.get_close_matches(task_name, SETS, n=1, cutoff=0.5)
        raise ConfigError(
            f"no set is called {name!r}; "
            + (f"did you mean {near[0]}?" if near else f"there are {', '.join(SETS)}")
        )
    task = table.find(task_name)
    levels, chance = _LEVELS.get(task_name, (task.difficulties[:1], None))
    if at:
        if not level.isdecimal() or int(level) not in task.difficulties:
            raise ConfigError(
                f"{name}: a level of {task_name} is a number from {task.difficulties[0]} to "
                f"{task.difficulties[-1]}"
            )
        levels = (int(level),)
    bare = name.startswith(BARE_PREFIX)
    return generated(name, task, levels=levels, chance=chance, bare=bare)
