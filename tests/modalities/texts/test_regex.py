import re

from jepakit.modalities.texts.regex import ATOMS, TEMPLATES, regex_pairs
from jepakit.modalities.texts.words import words

INSTANCES = {"[AEIOU]": "E", "[0-9]": "7", "[A-Za-z]": "q", "[A-Z]": "K", "[a-z]": "v", ".": "?"}


def test_all_pairs_once_in_an_order_that_the_seed_draws():
    pairs = regex_pairs(0)
    assert len(pairs) == len(set(pairs)) == 2600
    assert regex_pairs(0) == pairs
    assert regex_pairs(1) != pairs
    assert sorted(regex_pairs(1)) == sorted(pairs)


def test_no_text_and_no_code_stands_twice_as_the_language_model_sees_them():
    for side in (0, 1):
        assert len({tuple(words(pair[side])) for pair in regex_pairs(0)}) == 2600


def test_every_template_and_every_atom_appears():
    pairs = regex_pairs(0)
    assert {template for _, _, template in pairs} == set(TEMPLATES)
    for atom, code in ATOMS.items():
        mentioned = [pair for pair in pairs if atom in pair[0]]
        assert mentioned
        assert all(code in pair[1] for pair in mentioned)


def test_the_expressions_mean_what_their_texts_say():
    """Those without & and ~, which Python's `re` lacks: a line made as the text says matches."""
    known = re.compile("|".join(sorted(map(re.escape, ATOMS), key=len, reverse=True)))
    by_template = {"before": "{x}{y}", "at least": "{x}", "at least before": "{x}{y}", "one of three": "{z}"}
    checked = 0
    for text, code, template in regex_pairs(0):
        if template in by_template:
            atoms = [ATOMS[atom] for atom in known.findall(text)]
            parts = {place: INSTANCES.get(atom, atom) for place, atom in zip("xyz", atoms, strict=False)}
            times = re.search(r"\{(\d+),\}", code)
            parts["x"] = parts["x"] * (int(times[1]) if times else 1)
            assert re.fullmatch(code, "-" + by_template[template].format(**parts) + "-"), (text, code)
            checked += 1
    assert checked == 90 + 80 + 720 + 720
