"""Tasks as files: every option is checked, and a part that is asked for must be there."""

import pytest

from jepakit.errors import UserError
from jepakit.worlds.agent.configurator import Configurator, TaskConfig, read_task
from tests.worlds.agent.exact_worlds import READER

WHOLE = """
planner: cem
search: {population: 32, iterations: 2}
plan: {horizon: 6, replan: 2, cost: last}
costs:
  - {kind: goal, weight: 2}
  - {kind: zone, name: wet floor, where: {x: [1, 2.5]}, hard: true, margin: .5}
attend: [0]
budget: 50
fallback: [0, 1]
"""


def written(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_task_from_a_file(tmp_path):
    task = read_task(written(tmp_path, WHOLE))
    assert (task.mode, task.planner, task.search, task.attend) == (2, "cem", {"population": 32, "iterations": 2}, (0,))
    assert (task.plan.horizon, task.plan.replan, task.plan.cost, task.plan.deviations) == (6, 2, "last", 2.5)
    assert [(term.title, term.weight, term.hard, term.margin) for term in task.costs] == [
        ("goal", 2.0, False, 0.0), ("wet floor", 1.0, True, 0.5),
    ]  # fmt: skip
    assert (task.budget, task.fallback) == (50, (0.0, 1.0))
    settings = Configurator(task, reader=READER)
    assert settings.intrinsic.reach == "last"
    assert settings.planner.config.population == 32


def test_an_empty_file_is_the_plain_task(tmp_path):
    assert read_task(written(tmp_path, "")) == TaskConfig()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("planer: cem", r"task.yaml: task.planer.*planner"),
        ("planner: cme", "planner.*cem"),
        ("search: {populaton: 3}", "population"),
        ("search: [3]", "search.*population: 64"),
        ("mode: 3", "mode"),
        ("costs: []", "at least one term"),
        ("costs: [{kind: zone, where: {x: [2, 1]}}]", "in order"),
        ("costs: [{knd: zone}]", r"costs\[0\].knd.*kind"),
        ("plan: {horizon: 2, replan: 3}", "replan"),
        ("budget: 0", "budget"),
        ("critic: -1", "critic"),
        ("costs: {a: b", "YAML"),
        ("costs: [{kind: place, where: {z: 1}}]", "no variable 'z'"),
        ("mode: 1", "--teach"),
        ("critic: 1", "--teach"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        Configurator(read_task(written(tmp_path, text)), reader=READER)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing.yaml does not exist"):
        read_task(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="jepakit evaluate"):
        Configurator(TaskConfig(costs=read_task(written(tmp_path, WHOLE)).costs))
