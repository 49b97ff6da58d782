import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from jepakit.config import from_plain, to_plain
from jepakit.errors import UserError
from jepakit.modalities.modality import sample_facts
from jepakit.modalities.texts.data import TextDataConfig, open_texts
from jepakit.modalities.texts.inputs import END, PAD, SEPARATOR, SPECIAL, UNKNOWN, TextInputs
from jepakit.modalities.texts.words import words

ROWS = [{"nl": f"add {n} to it", "sql": f"SELECT {n}+x", "kind": "even" if n % 2 == 0 else "odd"} for n in range(20)]


def write(folder, rows, name="pairs.jsonl"):
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def opened(path, seed=0, **options):
    return open_texts(TextDataConfig(data=path, fields=("nl", "sql"), **options), seed)


@pytest.fixture(scope="module")
def regex():
    return open_texts(TextDataConfig(data="regex", limit=100), 0)


def test_words_are_runs_of_letters_and_digits_and_single_signs():
    assert words("lines  with\ta_b9, (x.*){2,}") == ["lines", "with", "a_b9", ",", "(", "x", ".", "*", ")", "{", "2", ",", "}"]
    assert words("Größe ≤ 5") == ["Größe", "≤", "5"]


def test_the_built_in_pairs(regex):
    everything = open_texts(TextDataConfig(data="regex"), 1)
    assert (len(everything.train), len(everything.test), len(regex.train), len(regex.test)) == (2200, 400, 100, 400)
    assert [sample["id"] for sample in regex.test] == [sample["id"] for sample in everything.test]
    assert not set(regex.test.ids) & set(everything.train.ids)
    assert everything.task == "classification"
    for part in (everything.train, everything.test):
        assert set(part.labels) == set(range(8))
        assert len({sample["text"] for sample in part}) == len({sample["code"] for sample in part}) == len(part)
    for other in (dataclasses.replace(regex.config, limit=99), dataclasses.replace(regex.config, limit=None)):
        assert open_texts(other, 0).fingerprint != regex.fingerprint
    again = open_texts(regex.config, 0)
    assert again.fingerprint == regex.fingerprint
    assert [s["text"] for s in again.train] == [s["text"] for s in regex.train]
    assert open_texts(regex.config, 1).fingerprint != regex.fingerprint


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.tsv"])
def test_a_file_of_pairs(tmp_path, name):
    data = opened(write(tmp_path, ROWS, name), label_field="kind", test_fraction=0.25)
    assert (len(data.train), len(data.test), data.classes, data.kind) == (15, 5, ["even", "odd"], name.split(".")[1])
    for part in (data.train, data.test):
        for sample in part:
            row = ROWS[sample["id"]]
            assert (sample["text"], sample["code"]) == (row["nl"], row["sql"])
            assert data.classes[sample["label"]] == row["kind"]
    assert abs(int(data.test.labels.sum()) - 2.5) < 1  # stratified
    unlabelled = opened(write(tmp_path, ROWS, name))
    assert unlabelled.task is None
    assert "label" not in unlabelled.train[0]


def test_dicts_in_memory():
    data = open_texts(TextDataConfig(data="object", fields=("nl", "sql"), test_fraction=0.0), 0, source=ROWS)
    assert [sample["code"] for sample in data.train] == [row["sql"] for row in ROWS]
    assert len(data.test) == 0


def test_quoted_cells_and_windows_files(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes('\ufeffnl,sql\r\n"a, b\r\nand c","say ""x"""\r\n\r\nd,e\r\n'.encode())
    data = opened(str(path), test_fraction=0.0)
    assert [(s["text"], s["code"]) for s in data.train] == [("a, b\nand c", 'say "x"'), ("d", "e")]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.jsonl", "holds no pairs"),
        ("nl,sql\n", "a.csv", "empty but for its header"),
        ('{"nl": "a", "sql": "b"}\n{"nl": "c"}\n', "a.jsonl", r"line 2: there is no field 'sql'.*--fields"),
        ('{"nl": "a", "sqi": "b"}\n', "a.jsonl", "Did you mean 'sqi'"),
        ('{"nl": "a", "sql": "b"}\n{oops\n', "a.jsonl", "line 2 is not JSON"),
        ('["a", "b"]\n', "a.jsonl", "line 1: expected an object"),
        ('{"nl": " ", "sql": "b"}\n', "a.jsonl", "line 1: the field 'nl' must hold a text"),
        ('{"nl": null, "sql": "b"}\n', "a.jsonl", "must hold a text, got None"),
        ("nl,sql\na,b\nc\n", "a.csv", "line 3 has 1 cells, the header 2"),
        ("text,code\na,b\n", "a.csv", "there is no field 'nl'"),
        ("a b", "a.txt", "not one of .jsonl, .csv, .tsv"),
    ],
)
def test_files_that_cannot_be_read_are_told_by_line(tmp_path, content, name, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        opened(str(tmp_path / name))


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match=r'is not a file.*"regex"'):
        opened("regexx")
    (tmp_path / "latin.csv").write_bytes("nl,sql\ngr\xf6\xdfe,b\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        opened(str(tmp_path / "latin.csv"))
    with pytest.raises(UserError, match=r"no field 'class'.*--label-field"):
        opened(write(tmp_path, ROWS), label_field="class")
    with pytest.raises(UserError, match="sequence of dicts"):
        open_texts(TextDataConfig(data="object"), 0, source=3)
    for options in ({"fields": ("a", "a")}, {"test_fraction": 1.0}, {"max_length": 0}, {"on_long": "drop"}, {"limit": 0}):
        with pytest.raises(UserError):
            TextDataConfig(data="regex", **options)


def test_long_texts_stop_the_run_or_are_cut(tmp_path):
    path = write(tmp_path, [*ROWS, {"nl": "one two three four five", "sql": "x"}])
    with pytest.raises(UserError, match="line 21: the field 'nl' has 5 words, more than max_length 4"):
        opened(path, max_length=4)
    data = opened(path, max_length=4, on_long="cut", test_fraction=0.0)
    assert any("1." in note for note in data.notes)
    prepared = TextInputs.of(data).prepare([data.train[20]])
    assert prepared["lengths"].tolist() == [4]


def test_pairs_that_repeat_are_told(tmp_path):
    assert "3" in " ".join(opened(write(tmp_path, [*ROWS, *ROWS[:3]])).notes)
    assert opened(write(tmp_path, ROWS)).notes == []


def test_the_vocabulary_is_that_of_the_training_part_and_survives_the_run_folder(regex):
    inputs = TextInputs.of(regex)
    assert inputs.vocabulary[:4] == SPECIAL
    assert (PAD, UNKNOWN, SEPARATOR, END) == (0, 1, 2, 3)
    seen = {word for sample in regex.train for name in ("text", "code") for word in words(sample[name])}
    assert set(inputs.vocabulary[4:]) == seen
    assert len(set(inputs.vocabulary)) == len(inputs.vocabulary)
    back = from_plain(TextInputs, json.loads(json.dumps(to_plain(inputs))), "inputs")
    assert back == inputs
    assert back.word_ids(regex.test[0]["text"]) == inputs.word_ids(regex.test[0]["text"])
    with pytest.raises(UserError, match="must begin with"):
        TextInputs(vocabulary=("a", "b"), max_length=3)


def test_prepared_texts_are_right_padded_and_unknown_words_are_one(regex):
    inputs = TextInputs.of(regex)
    prepared = inputs.prepare([{"text": "lines with zebras"}, {"text": "a"}])
    lines, with_, a = (inputs.vocabulary.index(word) for word in ("lines", "with", "a"))
    assert prepared["tokens"].tolist() == [[lines, with_, UNKNOWN], [a, PAD, PAD]]
    assert prepared["lengths"].tolist() == [3, 1]
    with pytest.raises(UserError, match="no words"):
        inputs.prepare([{"text": " "}])


def test_plain_features_count_words(regex):
    inputs = TextInputs.of(regex)
    counts = inputs.plain([{"text": "a vowel before a zebra"}])[0]
    expected = {"a": 2, "vowel": 1, "before": 1, "<unknown>": 1}
    assert {inputs.vocabulary[i]: int(n) for i, n in enumerate(counts) if n} == expected
    assert inputs.plain_name == "bag of words"


def test_samples_pickle_and_subsets_keep_their_ids(regex):
    part = pickle.loads(pickle.dumps(regex.train)).subset(np.array([5, 2]))
    assert [sample["id"] for sample in part] == [regex.train[5]["id"], regex.train[2]["id"]]
    assert part.labels.tolist() == [regex.train.labels[5], regex.train.labels[2]]
    facts = sample_facts([part[0], part[1]])
    torch.testing.assert_close(facts["label"], torch.tensor(part.labels))
    inputs = pickle.loads(pickle.dumps(TextInputs.of(regex)))
    assert inputs.word_ids("lines")[0] >= len(SPECIAL)
