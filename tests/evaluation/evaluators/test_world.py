"""`evaluate` and `report` of a world model: what is measured, on which windows, and the page that shows it."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")


import jepakit
from jepakit.errors import UserError
from jepakit.evaluation import state_probe
from jepakit.evaluation.evaluators import windows, world
from jepakit.modalities.trajectories import data as trajectories
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.verbs.act import act
from jepakit.verbs.evaluate import evaluate
from jepakit.verbs.report import report


def episodes(count=24, steps=30, states=True, seed=0):
    """A point that moves by its action."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        actions = generator.uniform(-1, 1, (steps, 2)).astype(np.float32)
        places = np.concatenate([generator.normal(size=(1, 2)), 0.3 * actions[:-1]]).cumsum(0).astype(np.float32)
        found.append({"observations": places, "actions": actions, **({"states": places} if states else {})})
    return found


ACTING = {"env": "two-rooms", "population": 4, "elites": 2, "iterations": 1, "horizon": 20, "replan": 20}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Less of everything: a few rooms, windows and steps of the network."""
    made = trajectories.two_rooms_episodes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "two_rooms_episodes", lambda config: made(config, episodes=60, steps=24))
        patch.setattr(world, "MOST", 32)
        patch.setattr(world, "FRAMES", 100)
        patch.setattr(state_probe, "STEPS", 5)
        patch.setattr("jepakit.verbs.report.MAPPED", 20)
        patch.setattr("jepakit.evaluation.frozen_features.MOST_LARGE", (50, 30))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    jepakit.pretrain(
        "pldm", data="two-rooms", out=folder, steps=2, batch_size=8, widths=(2, 2, 2), embedding=8, inverse_hidden=8,
        frame_skip=1, threads=1,
    )  # fmt: skip
    return folder


def test_a_trained_run_has_been_measured(run):
    found = json.loads((run / "evaluation.json").read_text())
    assert found["data"]["train"] == 50  # of pictures no more
    section = found["world_model"]
    assert section["windows"] == {"train": 32, "test": 32}
    assert section["episodes"]["train"] == 32
    assert section["rollout"]["horizons"][-1] == windows.HORIZON
    assert len(section["rollout"]["curves"]) == 5
    assert section["state"]["variables"] == ["x", "y", "wall x", "door y"]
    assert {row["features"] for row in section["state"]["rows"]} == {"encoder", "random init", "observation", "pca"}
    events = section["surprise"]["events"]
    assert set(events) == {"skips ahead", "another scene", "frozen", "another's action", "reversed action"}
    assert section["planning"] is None
    assert (run / "state_probe.safetensors").exists()


def test_the_page_shows_what_was_measured_and_how_it_acted(run):
    page = report(run).read_text()
    assert 'id="rollouts"' in page
    assert "has not acted" in page
    act(run, **ACTING, episodes=2, record=1)
    recorded = json.loads((run / "acting.json").read_text())["recorded"]
    assert [one["key"] for one in recorded["episodes"]] == ["mppi-0", "random-0", "oracle-0"]
    assert np.array(recorded["landscape"]["cost"]).shape == (21, 21)
    page = report(run).read_text()
    assert page.count("data:image/gif;base64,") == 3
    assert "Cost landscape" in page
    assert "real and imagined paths" in page
    assert len(page) < 1_500_000
    evaluate(run)
    assert json.loads((run / "evaluation.json").read_text())["world_model"]["planning"]["env"] == "two-rooms"


def test_acting_again_leaves_nothing_of_before(run):
    act(run, **ACTING, episodes=1, planner="cem", record=1)
    assert sorted(path.name for path in (run / "acting").iterdir()) == [
        "cem-0.gif", "oracle-0.gif", "random-0.gif", "recorded.safetensors",
    ]  # fmt: skip
    act(run, **ACTING, episodes=1, record=0)
    assert list((run / "acting").iterdir()) == []
    assert "No episodes were recorded" in report(run).read_text()


@pytest.mark.parametrize(
    ("name", "content"), [("acting.json", '{"rows": {"a": 1}}'), ("evaluation.json", '{"world_model": {}}')]
)
def test_files_that_are_not_ours_are_named(run, name, content):
    before = (run / name).read_text()
    (run / name).write_text(content)
    try:
        with pytest.raises(UserError, match=name):
            report(run)
    finally:
        (run / name).write_text(before)


def test_without_states_dynamics_are_measured_all_the_same(tmp_path):
    parts = episodes(states=False)
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in ("observations", "actions")}
    np.savez(tmp_path / "a.npz", **arrays, episode=np.repeat(np.arange(24), 30))
    rows = jepakit.pretrain(
        "lewm", data=tmp_path / "a.npz", out=tmp_path / "run", steps=3, batch_size=16, size="nano", embedding=4, projector=(8,),
        threads=1,
    ).rows  # fmt: skip
    assert rows == []
    section = json.loads((tmp_path / "run" / "evaluation.json").read_text())["world_model"]
    assert section["state"] is None
    assert section["history"] == 3
    assert "no states to compare" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match="no labels"):
        evaluate(tmp_path / "run", evaluators=["linear"])
    again = json.loads((tmp_path / "run" / "evaluation.json").read_text())["world_model"]
    evaluate(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["world_model"] == again


def test_windows_lie_within_episodes_and_take_many():
    parts = episodes(30, 30) + episodes(10, 5, seed=1)
    data = open_trajectories(TrajectoryDataConfig(data="given", history=2, horizon=1), 0, source=parts)
    train, test = data.windows(windows.HORIZON, 50, 0)
    for part in (train, test):
        starts, span = part.episodes.starts, part.config.history + part.config.horizon
        owner = np.searchsorted(starts, part.begins, side="right") - 1
        assert (part.begins + span <= starts[owner + 1]).all()
        assert len(np.unique(part.begins)) == len(part)
        count = np.bincount(owner)
        assert count[count > 0].max() - count[count > 0].min() <= 1  # one of each before a second of any
    assert train.config.horizon == test.config.horizon == 16
    held = np.searchsorted(test.episodes.starts, test.begins, side="right")
    assert not set(held) & set(np.searchsorted(train.episodes.starts, train.begins, side="right"))
    assert torch.equal(torch.from_numpy(data.windows(windows.HORIZON, 50, 0)[1].begins), torch.from_numpy(test.begins))
    assert not np.array_equal(data.windows(windows.HORIZON, 50, 1)[1].begins, test.begins)


def test_what_was_measured_stands_where_nothing_can_be_drawn(run, monkeypatch, capsys):
    def fail(self):
        raise RuntimeError("no screen")

    monkeypatch.setattr("jepakit.worlds.two_rooms_environment.TwoRooms.render", fail)
    found = act(run, **ACTING, episodes=1, record=1)
    assert "no screen" in capsys.readouterr().err
    assert {one["animation"] for one in found["recorded"]["episodes"]} == {None}
    assert "draws no pictures" in report(run).read_text()
