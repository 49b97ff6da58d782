import pytest

from jepakit.errors import UserError
from jepakit.evaluation.document import FORMAT, add_evaluation, read_evaluation
from jepakit.files import read_json, write_json


def evaluated(evaluator, value, question="jepakit evaluate .", step=10):
    row = {"features": "encoder", "evaluator": evaluator, "metric": "accuracy", "value": value}
    return {"command": f"asked for {evaluator}", "question": question, "step": step, "data": {"name": "digits"}, "rows": [row]}


def test_evaluations_add_up_and_none_is_lost(tmp_path):
    """The same question: rows add up, asked again they are replaced. Other labels, or other weights: both are kept."""
    path = tmp_path / "evaluation.json"

    def kept():
        found = read_json(path)
        documents = [found, *found["earlier"]]
        return [[(row["evaluator"], row["value"]) for row in one["rows"]] for one in documents], found["command"].split("\n")

    add_evaluation(path, evaluated("linear", 0.5))
    add_evaluation(path, evaluated("knn-20", 0.6))
    assert kept() == ([[("linear", 0.5), ("knn-20", 0.6)]], ["asked for linear", "asked for knn-20"])
    add_evaluation(path, evaluated("linear", 0.7))
    assert kept()[0] == [[("knn-20", 0.6), ("linear", 0.7)]]
    add_evaluation(path, evaluated("linear", 0.1, "jepakit evaluate . --labels others"))
    assert kept() == ([[("linear", 0.1)], [("knn-20", 0.6), ("linear", 0.7)]], ["asked for linear"])
    add_evaluation(path, evaluated("linear", 0.8))  # joins what the same question had, and leads
    assert kept()[0] == [[("knn-20", 0.6), ("linear", 0.8)], [("linear", 0.1)]]
    add_evaluation(path, evaluated("linear", 0.9, step=20))
    assert kept()[0] == [[("linear", 0.9)], [("knn-20", 0.6), ("linear", 0.8)], [("linear", 0.1)]]
    path.write_text("{ cut")
    add_evaluation(path, evaluated("linear", 0.2))
    assert kept()[0] == [[("linear", 0.2)]]
    assert (tmp_path / "evaluation.unreadable.json").read_text() == "{ cut"


def test_rows_of_format_1_stay_as_they_were_and_are_read_with_words(tmp_path):
    path = tmp_path / "evaluation.json"
    old = {**evaluated("low-shot-1", 0.5), "format": 1}
    old["rows"].append({"features": "encoder", "evaluator": "continuation: vanish", "metric": "pairs told apart", "value": 1.0})
    old["rows"].append({"features": "encoder", "evaluator": "flow", "metric": "end_point_error", "value": 1.0})
    old["rows"].append({"features": "encoder", "evaluator": "of-a-stranger", "metric": "x", "value": 1.0})
    write_json(path, {**old, "earlier": []})
    add_evaluation(path, {**evaluated("linear", 0.6), "format": FORMAT})
    written = read_json(path)
    assert written["format"] == FORMAT == 2
    assert written["rows"][:4] == old["rows"]
    rows = read_evaluation(path)["rows"]
    headings = ["1 label a class", "continuation: vanish", "flow", "of-a-stranger", "Linear probe"]
    assert [row["heading"] for row in rows] == headings
    assert [row["phrase"] for row in rows][:3] == ["at 1 label a class", "with continuation: vanish", "with flow"]
    assert [row["higher_is_better"] for row in rows] == [True, True, False, True, True]
    assert rows[2]["metric_heading"] == "End-point error of the flow in pixels (lower is better)"


def test_a_file_of_a_later_format_is_not_read_and_not_lost(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json(path, {**evaluated("linear", 0.5), "format": 3})
    with pytest.raises(UserError, match="reads evaluations up to format 2, not 3"):
        read_evaluation(path)
    add_evaluation(path, evaluated("linear", 0.6))
    assert read_json(tmp_path / "evaluation.unreadable.json")["format"] == 3
