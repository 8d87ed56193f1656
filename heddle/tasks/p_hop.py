"""p-hop induction: step back p times through a string, each step hanging on the one before.

The task of Sanford, Hsu and Telgarsky 2024 (arXiv:2402.09268, section 4), which needs depth
logarithmic in p, and on which Saunshi et al. 2025 (arXiv:2502.17416) show looped models to match
deep ones.
"""

from random import Random

from heddle.tasks.task import Example, Task, held_out

_LETTERS = "abcd"


def draw(rng: Random, difficulty: int) -> Example:
    """Draw a string in which the last letter's p-th hop exists; no letter follows itself."""
    while True:
        letters = [rng.choice(_LETTERS)]
        while len(letters) < 8 + 5 * difficulty:
            letters.append(rng.choice([letter for letter in _LETTERS if letter != letters[-1]]))
        reached = hop("".join(letters), difficulty)
        if reached[-1]:
            break
    start = f"hop{difficulty} "
    return Example(
        prompt=f"{start}{''.join(letters)}=",
        answer=reached[-1],
        difficulty=difficulty,
        identity="".join(letters),
        labels=tuple(
            (len(start) + place, letter) for place, letter in enumerate(reached) if letter
        ),
    )


def hop(text: str, num_hops: int) -> list[str]:
    """Return the letter that each place reaches in `num_hops`; empty where a hop is missing.

    A hop leads from a place to the one after the last earlier place with the same letter.
    """
    last_seen: dict[str, int] = {}
    one_hop: list[int | None] = []
    for place, letter in enumerate(text):
        earlier = last_seen.get(letter)
        one_hop.append(None if earlier is None else earlier + 1)
        last_seen[letter] = place
    reached: list[int | None] = list(range(len(text)))
    for _ in range(num_hops):
        reached = [None if place is None else one_hop[place] for place in reached]
    return ["" if place is None else text[place] for place in reached]


TASK = Task(
    name="p_hop",
    cluster="symbolic",
    instruction=(
        "Start at the string's last letter. A hop goes to the letter that followed the same "
        "letter's previous appearance. Answer with the letter that you reach after as many hops "
        "as the number says."
    ),
    needs="n hops",
    difficulties=range(1, 65),
    source=held_out("p_hop", draw),
)
