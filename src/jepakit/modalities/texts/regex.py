"""Generated pairs: what a line contains, in plain words, and the regular expression that finds it.

The task of NL-RX (Locascio et al. 2016, arXiv 1608.03000) in small: eight templates over ten atoms, 2,600 pairs in which no
text and no code stands twice. `&` is conjunction and `~` negation, as there.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from jepakit.randomness import derive_seed

ATOMS = {
    "a vowel": "[AEIOU]",
    "a number": "[0-9]",
    "a letter": "[A-Za-z]",
    "a capital letter": "[A-Z]",
    "a lower-case letter": "[a-z]",
    "any character": ".",
    "the string dog": "dog",
    "the string truck": "truck",
    "the string ring": "ring",
    "the string lake": "lake",
}
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}

# name: (text, code, atoms). {n} is a count: its word in the text, its digits in the code.
TEMPLATES = {
    "before": ("lines with {x} before {y}", ".*{x}.*{y}.*", 2),
    "both": ("lines with {x} and {y}", "(.*{x}.*)&(.*{y}.*)", 2),
    "start and end": ("lines that start with {x} and end with {y}", "({x}.*)&(.*{y})", 2),
    "not containing": ("lines not containing {x} but {y}", "~(.*{x}.*)&(.*{y}.*)", 2),
    "at least": ("lines with {x} at least {n} times", "(.*{x}.*){{{n},}}", 1),
    "at least before": ("lines with {x} at least {n} times before {y}", "(.*{x}.*){{{n},}}.*{y}.*", 2),
    "one of three": ("lines with {x} , {y} or {z}", ".*(({x})|({y})|({z})).*", 3),
    "before without": ("lines with {x} before {y} but not {z}", "(.*{x}.*{y}.*)&~(.*{z}.*)", 3),
}


def regex_pairs(seed: int) -> list[tuple[str, str, str]]:
    """All pairs as (text, code, template), in an order that the seed draws."""
    pairs = [pair for template in TEMPLATES for pair in _pairs(template)]
    order = np.random.default_rng(derive_seed(seed, "regex")).permutation(len(pairs))
    return [pairs[index] for index in order]


def _pairs(template: str) -> list[tuple[str, str, str]]:
    text, code, atoms = TEMPLATES[template]
    found = []
    for chosen in permutations(ATOMS, atoms):
        for word in COUNTS if "{n}" in text else [""]:
            said = dict(zip("xyz", chosen, strict=False))
            meant = {place: ATOMS[atom] for place, atom in said.items()}
            found.append((text.format(n=word, **said), code.format(n=COUNTS.get(word, ""), **meant), template))
    return found
