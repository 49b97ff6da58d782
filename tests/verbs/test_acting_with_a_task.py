"""`act --task`: an agent with costs, limits, memory, a taught actor and critic, small but whole."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from jepakit.cli import main
from jepakit.errors import UserError
from jepakit.verbs.act import act
from jepakit.verbs.agent import agent
from jepakit.verbs.pretrain import pretrain
from jepakit.verbs.report import report
from jepakit.worlds.agent.configurator import TaskConfig
from jepakit.worlds.agent.network import fitted
from jepakit.worlds.environments import make_environment

TASK = """
planner: icem
search: {population: 8, elites: 2, iterations: 1}
plan: {horizon: 4, replan: 1, cost: nearest}
costs:
  - {kind: goal}
  - {kind: zone, name: deep, where: {velocity: [30, 40]}, hard: true}
  - {kind: effort, weight: 0.1}
"""


@pytest.fixture(scope="module", autouse=True)
def small(measured_on_little):
    """Networks that read states, foresee costs and react are fitted for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("worlds.agent.actor", "worlds.agent.critic", "evaluation.evaluators.world"):
            patch.setattr(f"jepakit.{place}.fitted", lambda x, y, config, seed: fitted(x, y, replace(config, steps=50), seed))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent") / "run"
    pretrain("lewm", data="pendulum", out=folder, steps=3, batch_size=16, limit=400, history=1)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "task.yaml"
    path.write_text(TASK, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def taught(run, task):
    words = ["--env", "pendulum", "--task", str(task), "--episodes", "6", "--record", "1", "--teach"]
    assert main(["act", str(run), *words]) == 0
    return json.loads((run / "acting.json").read_text())


def test_it_acts_by_the_task_and_tells_of_it(run, taught):
    assert list(taught["rows"]) == ["icem", "random", "oracle"]
    assert taught["task"]["costs"][1]["name"] == "deep"
    assert taught["planner"] == {"name": "icem", **taught["task"]["plan"], "population": 8, "elites": 2, "iterations": 1}
    assert taught["incidents"] == {}
    assert taught["zones"] == {"deep": 0}
    [judged] = taught["judgements"].values()
    assert judged["steps"] == list(range(0, 200, 4))
    assert set(judged["parts"]) == {"goal", "deep", "effort"}
    assert set(judged["parts"]["deep"]) == {0.0}
    assert all(value > 0 for value in judged["parts"]["goal"])
    memory = taught["memory"]
    assert (memory["met"], memory["imagined"]) == (6 * 50, 6 * 50)
    assert memory["surprise"] > 0
    [episode] = memory["episodes"].values()
    assert len(episode["cost"]) == len(episode["surprise"]) == 50
    assert episode["surprise"][0] is None
    assert taught["taught"]["steps"] == 300
    assert taught["taught"]["critic_r2"] <= 1


def test_mode_1_reacts_with_what_was_taught(run, task, taught):
    result = act(run, env="pendulum", task=task, mode=1, episodes=2, record=0)
    assert list(result["rows"]) == ["mode 1", "random", "oracle"]
    assert result["judgements"] == {}
    assert result["memory"]["imagined"] == 0
    assert result["task"]["mode"] == 1


def test_the_critic_is_asked_where_the_task_says_so(run, taught):
    made = TaskConfig(critic=0.5, planner="icem", search={"population": 8, "elites": 2, "iterations": 1})
    result = act(run, env="pendulum", task=made, episodes=1, record=1)
    [judged] = result["judgements"].values()
    assert set(judged["parts"]) == {"goal", "critic"}
    assert np.std(judged["parts"]["critic"]) > 0


def test_the_report_shows_costs_and_memory(run, task, taught):
    act(run, env="pendulum", task=task, episodes=2, record=1)
    page = report(run).read_text(encoding="utf-8")
    for words in ("What each term of the cost adds", ">deep<", "Surprise: met against", "Zone deep: really entered in 0 of 2"):
        assert words in page


def test_what_was_believed_is_told_and_shown(tmp_path):
    coded = tmp_path / "coded"
    pretrain(
        "pldm", data="two-rooms-either-door", out=coded, steps=2, batch_size=8, limit=64, widths=(2,), embedding=8,
        inverse_hidden=8, latent="discrete", workers=0, test_fraction=0.0, device="cpu",
    )  # fmt: skip
    made = TaskConfig(recall=True, search={"population": 8, "elites": 2, "iterations": 1}, budget=24)
    result = act(coded, env="two-rooms-either-door", task=made, episodes=1, record=1)
    [judged] = result["judgements"].values()
    shares = np.array(judged["belief"])
    assert shares.shape == (len(judged["steps"]), 2)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert shares[0].tolist() == [0.5, 0.5]
    assert np.ptp(shares[:, 0]) > 0
    assert "how likely each value of the latent was taken to be" in report(coded).read_text(encoding="utf-8")


def test_the_agent_by_itself(run, task, taught):
    made, world = agent(run, task), make_environment("pendulum")
    observation, info = world.reset(seed=1)
    made.begin([world], [1])
    for _ in range(12):
        action = made.act(observation, info)
        assert world.action_space.contains(action)
        observation, _, _, _, info = world.step(action)
    assert len(made.memory.entries()) == 3


def test_options_beside_a_task_are_refused(run, task):
    with pytest.raises(UserError, match="population, horizon: the task says"):
        act(run, env="pendulum", task=task, population=3, horizon=2)
    with pytest.raises(UserError, match="does not exist"):
        act(run, env="pendulum", task=run / "none.yaml")


def test_parts_that_are_not_there_are_named(tmp_path):
    folder = tmp_path / "bare"
    pretrain("lewm", data="pendulum", out=folder, steps=1, batch_size=8, limit=64, history=1, test_fraction=0.0)
    for options, says in (
        ({"mode": 1}, "--teach"),
        ({"task": TaskConfig(critic=1.0)}, "--teach"),
    ):
        with pytest.raises(UserError, match=says):
            act(folder, env="pendulum", episodes=1, **options)


def test_a_damaged_actor_is_named(run, task, taught):
    whole = (run / "actor.safetensors").read_bytes()
    try:
        (run / "actor.safetensors").write_bytes(whole[:100])
        with pytest.raises(UserError, match=r"actor.safetensors"):
            agent(run, task)
    finally:
        (run / "actor.safetensors").write_bytes(whole)
