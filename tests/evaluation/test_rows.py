import json

from rich.console import Console

from jepakit.evaluation.intervals import Interval
from jepakit.evaluation.metrics import METRICS
from jepakit.evaluation.rows import Row, best_rows, table


def row(features, value, evaluator="linear", metric="accuracy"):
    interval = Interval(value, value - 0.01, value + 0.02, "95% Wilson over test samples")
    return Row.of(features, evaluator, METRICS[metric], interval, {"train": 10})


ROWS = [
    row("encoder", 0.9),
    row("pixels", 0.8),
    row("encoder", 0.7, "knn-20"),
    row("encoder", 3.0, metric="mae"),
    row("pixels", 4.0, metric="mae"),
]


def test_a_row_survives_json():
    assert Row(**json.loads(json.dumps(ROWS[0].to_dict()))) == ROWS[0]


def test_the_best_of_each_column_where_less_error_is_better():
    assert best_rows(ROWS) == {0, 2, 3}
    assert best_rows([row("a", 0.5), row("b", 0.5)]) == {0, 1}


def test_the_table_has_features_as_rows_and_evaluators_as_columns():
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(ROWS, title="digits"))
    text = console.export_text(clear=False)
    assert "digits" in text
    assert "0.900  0.890–0.920" in text
    lines = [line for line in text.splitlines() if "encoder" in line or "pixels" in line]
    assert ["0.900" in lines[0], "0.700" in lines[0], "3.000" in lines[0]] == [True] * 3
    assert " – " in lines[1]  # pixels have no kNN row
    assert "linear: 95% Wilson over test samples" in " ".join(text.split())
    styled = console.export_text(styles=True)
    assert "\x1b[1m0.900" in styled
    assert "\x1b[1m0.800" not in styled
