from jepakit.evaluation.document import add_evaluation
from jepakit.files import read_json


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
