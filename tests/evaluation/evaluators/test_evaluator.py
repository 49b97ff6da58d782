"""What every evaluator answers, how they are chosen, and one that is added from outside."""

import json

import pytest

import jepakit
from jepakit import registry
from jepakit.errors import UserError
from jepakit.evaluation.evaluators.evaluator import Evaluator
from jepakit.evaluation.intervals import Interval
from jepakit.evaluation.metrics import Metric
from jepakit.evaluation.rows import Row
from jepakit.registry import EVALUATORS, find_evaluator, load_named, register
from jepakit.verbs.evaluate import choose_evaluators

DISTANCE = Metric("distance", lambda scores, _, weights: weights @ scores, "Distance (lower is better)", higher_is_better=False)


class Far(Evaluator):
    """How far something is."""

    when = "asked for"
    metrics = (DISTANCE,)

    def fits(self, model, data, options):
        return "far is of data without a limit. Leave --limit out." if options.limit is not None else None

    def rows(self, model, data, options):
        values = {"encoder": 1.0, "random init": 2.0}
        return [
            Row.of(name, self.names[0], DISTANCE, Interval(value, value - 0.1, value + 0.1, "as given"))
            for name, value in values.items()
        ]

    @classmethod
    def heading(cls, evaluator):
        return f"Far by {find_evaluator(evaluator)[1]}"


@pytest.fixture
def far():
    before = dict(EVALUATORS)
    register("far-N", Far, "how far N is", kind="evaluator")
    yield
    EVALUATORS.clear()
    EVALUATORS.update(before)


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_registered_evaluator_says_when_and_what_it_measures(name):
    kind = load_named(EVALUATORS[name].place)
    assert issubclass(kind, Evaluator)
    assert kind.when in ("always", "by default", "asked for")
    typed = name.replace("-K", "-3").replace("-N", "-3")
    assert kind.heading(typed)
    assert kind.heading(typed).lower() in kind.phrase(typed).lower()
    for metric in kind.metrics:
        assert ("lower is better" in metric.heading) != metric.higher_is_better


def test_evaluators_are_chosen_by_name_by_default_and_always():
    def names(asked):
        return [(type(one).__name__, one.names) for one in choose_evaluators(asked)]

    always = [("TunedAnswers", None), ("WorldEvaluator", None)]
    assert names(None) == [("LabelProbes", None), always[0], ("FlowError", None), always[1]]
    assert names(()) == always
    assert names(("knn-3", "linear", "knn-3")) == [("LabelProbes", ("knn-3", "linear")), *always]
    assert names(["world"]) == [always[0], ("WorldEvaluator", ("world",))]
    assert names(["depth"]) == [("LabelMaps", ("depth",))]
    with pytest.raises(UserError, match="depth is measured by label maps and not by linear, which can be asked for by itself"):
        choose_evaluators(["linear", "depth"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("knn-", "'knn-20'"), ("lowshot-7", "'low-shot-7'"), ("low-shot-K", "'low-shot-20'"), ("wrld", "'world'")],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(name, words):
    with pytest.raises(UserError, match=words):
        find_evaluator(name)


def test_an_evaluator_from_outside_is_one_class(far, untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", "lejepa", "digits")
    rows = jepakit.evaluate(run, evaluators=["far-12"], device="cpu")
    assert [(row.features, row.heading, row.metric_heading) for row in rows] == [
        ("encoder", "Far by 12", "Distance (lower is better)"), ("random init", "Far by 12", "Distance (lower is better)"),
    ]  # fmt: skip
    document = json.loads((run / "evaluation.json").read_text())
    assert (document["format"], document["rows"][0]["higher_is_better"]) == (2, False)
    page = jepakit.report(run).read_text()
    assert "Far by 12" in page
    assert "beats random init with Far by 12" in page  # lower is better
    assert jepakit.list("evaluators")["far-N"] == "how far N is"
    with pytest.raises(UserError, match="far is of data without a limit"):
        jepakit.evaluate(run, evaluators=["far-12"], limit=10)
    with pytest.raises(UserError, match=f"'far-N' is taken by {__name__}:Far"):
        register("far-N", "elsewhere:Far", "another", kind="evaluator")
    assert registry.name_of(Far, "evaluator") == "far-N"
