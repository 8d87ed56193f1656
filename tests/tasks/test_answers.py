"""Each generator's answers against the slow and obvious way to find them."""

import re
import statistics

import pytest

from heddle.tasks.table import TASKS


def examples(name: str, level: int):
    return TASKS[name].examples("validation", seed=1, difficulty=level, count=30)


@pytest.mark.parametrize("hops", [1, 3, 9])
def test_p_hop(hops):
    for example in examples("p_hop", hops):
        text = example.prompt.split()[1].removesuffix("=")

        def hopped(place: int, text: str = text) -> str:
            for _ in range(hops):
                place = text.rindex(text[place], 0, place) + 1
            return text[place]

        start = example.prompt.index(text)
        assert example.answer == hopped(len(text) - 1)
        assert all(label == hopped(offset - start) for offset, label in example.labels)
        assert len(example.labels) > 3
        assert all(a != b for a, b in zip(text, text[1:], strict=False))


@pytest.mark.parametrize("length", [2, 9])
def test_modular_chain(length):
    for example in examples("modular_chain", length):
        first, *steps = re.findall(r"[-+*]?\d", example.prompt.split()[1])
        value, values = int(first), []
        for step in steps:
            value = eval(f"{value}{step}") % 7
            values.append(str(value))
        assert len(steps) == length
        assert example.answer == values[-1]
        assert [label for _, label in example.labels] == values


@pytest.mark.parametrize(("name", "size"), [("s3_tracking", 3), ("s5_tracking", 5)])
def test_permutations(name, size):
    shown = dict(re.findall(r"(\w): (\d+)", TASKS[name].instruction))
    assert len(shown) == size * (size - 1) // 2 + 2
    for example in examples(name, 12):
        row = [str(item + 1) for item in range(size)]
        firsts = []
        for letter in example.prompt.split()[1].removesuffix("="):
            row = [row[int(place) - 1] for place in shown[letter]]
            firsts.append(row[0])
        assert "".join(row) == example.answer
        assert [label for _, label in example.labels] == firsts


@pytest.mark.parametrize("length", [1, 12])
def test_cups(length):
    pairs = re.findall(r"(\d) (\d)", TASKS["cups"].instruction)
    for example in examples("cups", length):
        [(start, word)] = re.findall(r"^cup(\d)([a-l]+)=$", example.prompt)
        cups = [str(place) == start for place in range(1, 6)]  # which hides the ball
        places = []
        for letter in word:
            if letter in "kl":
                cups = cups[1:] + cups[:1] if letter == "k" else cups[-1:] + cups[:-1]
            else:
                one, other = (int(place) - 1 for place in pairs["abcdefghij".index(letter)])
                cups[one], cups[other] = cups[other], cups[one]
            places.append(str(cups.index(True) + 1))
        assert len(word) == length
        assert example.answer == places[-1]
        assert [label for _, label in example.labels] == places


@pytest.mark.parametrize("length", [1, 12])
def test_s3_product(length):
    arranged = dict(re.findall(r"(\d) is (\d{3})", TASKS["s3_product"].instruction))
    numbers = {items: number for number, items in arranged.items()}
    assert len(numbers) == 6
    for example in examples("s3_product", length):
        [(start, word)] = re.findall(r"^mul(\d)([abc]+)=$", example.prompt)
        items, states = arranged[start], []
        for letter in word:
            first, second, third = items
            items = {
                "a": second + first + third,
                "b": first + third + second,
                "c": second + third + first,
            }[letter]
            states.append(numbers[items])
        assert len(word) == length
        assert example.answer == states[-1]
        assert example.labels == tuple(enumerate(states, len("mul1")))


@pytest.mark.parametrize("length", [1, 12])
def test_weekday(length):
    for example in examples("weekday", length):
        [(start, word)] = re.findall(r"^day([1-7])([abc]+)=$", example.prompt)
        days = [1 + "abc".index(letter) for letter in word]
        states = [str((int(start) - 1 + sum(days[:end])) % 7 + 1) for end in range(1, length + 1)]
        assert len(word) == length
        assert example.answer == states[-1]
        assert example.labels == tuple(enumerate(states, len("day1")))


@pytest.mark.parametrize("length", [1, 12])
def test_affine(length):
    for example in examples("affine", length):
        [(start, word)] = re.findall(r"^aff([0-6])([abc]+)=$", example.prompt)
        states, number = [], int(start)
        for letter in word:
            number = {"a": number + 1, "b": number * 2, "c": number * 3}[letter] % 7
            states.append(str(number))
        assert len(word) == length
        assert example.answer == states[-1]
        assert example.labels == tuple(enumerate(states, len("aff1")))


@pytest.mark.parametrize("depth", [1, 4, 12])
def test_list_operations(depth):
    operations = {
        "MAX": max,
        "MIN": min,
        "MED": statistics.median_low,
        "SUM": lambda digits: sum(digits) % 10,
    }

    def evaluate(text: str) -> str:
        while match := re.search(r"\[(\w+) ([\d ]+)\]", text):
            value = operations[match[1]]([int(digit) for digit in match[2].split()])
            text = text[: match.start()] + str(value) + text[match.end() :]
        return text

    for example in examples("list_operations", depth):
        text = example.prompt.removesuffix("=")
        assert evaluate(text) == example.answer
        assert text.count("[") == depth
        deepest = text.rindex("[")
        places = [
            m.start() for m in re.finditer(r"\d", text[: text.index("]")]) if m.start() > deepest
        ]
        outcomes = [
            {evaluate(f"{text[:place]}{digit}{text[place + 1 :]}") for digit in range(10)}
            for place in places
        ]
        assert any(len(values) > 1 for values in outcomes), "nothing above may settle the answer"


@pytest.mark.parametrize("digits", [1, 5, 20])
@pytest.mark.parametrize("name", ["addition", "subtraction", "multiplication"])
def test_arithmetic(name, digits):
    for example in examples(name, digits):
        assert str(eval(example.prompt.removesuffix("="))) == example.answer
        lengths = [len(number) for number in re.findall(r"\d+", example.prompt)]
        assert max(lengths) == digits


@pytest.mark.parametrize("distance", [8, 300])
def test_passkey_stands_at_its_distance(distance):
    for example in examples("passkey", distance):
        before, after = example.prompt.split(f" The passkey is {example.answer}. ")
        assert len(after.removesuffix(" What is the passkey?\n").split()) == distance
        assert not re.search(r"\d", before + after)


@pytest.mark.parametrize("distance", [1, 40])
def test_recalled_pair_stands_at_its_distance(distance):
    for example in examples("key_value_recall", distance):
        pairs, asked = example.prompt.removeprefix("recall ").removesuffix("=").split(" ? ")
        listed = [pair.split("=") for pair in pairs.split()]
        assert dict(listed)[asked] == example.answer
        assert [key for key, _ in listed].count(asked) == 1
        assert listed[-1 - distance][0] == asked


def test_copying():
    for example in examples("copy", 9):
        assert example.prompt == f"copy {example.answer}="
    for example in examples("reverse", 9):
        assert example.prompt == f"reverse {example.answer[::-1]}="
