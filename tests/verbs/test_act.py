"""`act`: the whole way from recorded episodes to an agent, small."""

import json
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from jepakit.cli import main
from jepakit.errors import UserError
from jepakit.training.weight_files import read_weights
from jepakit.verbs.act import act
from jepakit.verbs.pretrain import pretrain
from jepakit.worlds.environments import make_environment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("act") / "run"
    pretrain(
        "pldm", data="two-rooms", out=folder, steps=2, batch_size=8, limit=64, widths=(2, 2, 2), embedding=8,
        test_fraction=0.0,
    )  # fmt: skip
    return folder


def test_it_acts_beside_random_and_oracle(run, capsys):
    words = ["--env", "two-rooms", "--episodes", "3", "--population", "8", "--elites", "2", "--iterations", "1"]
    assert main(["act", str(run), *words]) == 0
    result = json.loads((run / "acting.json").read_text())
    assert set(result["rows"]) == {"mppi", "random", "oracle"}
    assert result["rows"]["oracle"]["success"] == 1.0
    for row in result["rows"].values():
        assert row["episodes"] == 3
        assert row["steps"] == 600
        assert row["low"] <= row["success"] <= row["high"]
    assert result["plan_s"]["p99"] >= result["plan_s"]["p50"] > 0
    assert "oracle" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_episodes(run):
    options = {"env": "two-rooms", "episodes": 2, "planner": "cem", "population": 8, "elites": 2, "iterations": 1}
    first, second = (act(run, **options)["rows"]["cem"] for _ in range(2))
    assert first["reward"] == pytest.approx(second["reward"])
    assert np.isfinite(first["reward"])


def test_plans_keep_to_a_part_of_the_recorded_actions(run):
    options = {"env": "two-rooms", "episodes": 1, "planner": "icem", "population": 8, "elites": 2, "iterations": 1, "std": 1.0}
    moved = {}
    for deviations in (0.1, None):
        result = act(run, deviations=deviations, **options)
        assert (result["planner"]["deviations"], result["planner"]["std"]) == (deviations, 1.0)
        states = read_weights(run / "acting" / "recorded.safetensors")["icem-0/states"][:, :2]
        moved[deviations] = float(states.diff(dim=0).norm(dim=1).max())
    assert 0 < moved[0.1] < 0.35 < 1 < moved[None]  # a deviation is .76 pixels, the mean of the few recorded up to .25


@pytest.mark.parametrize("system", ["pldm", "lewm"])
def test_what_is_planned_in_bfloat16_is_recorded(system, tmp_path):
    run = tmp_path / "run"
    pretrain(system, data="pendulum", out=run, steps=2, batch_size=8, limit=64, embedding=8, history=2, test_fraction=0.0)
    result = act(run, env="pendulum", episodes=1, planner="icem", horizon=3, replan=1, precision="bfloat16", population=8,
                 elites=2, iterations=1, observations=1)  # fmt: skip
    assert (result["planner"]["precision"], result["planner"]["observations"]) == ("bfloat16", 1)
    assert read_weights(run / "acting" / "recorded.safetensors")["icem-0/imagined"].dtype == torch.float32


def test_a_model_with_a_latent_plans_by_the_risk_that_is_asked_for(run, tmp_path):
    coded = tmp_path / "coded"
    pretrain(
        "pldm", data="two-rooms-stochastic", out=coded, steps=2, batch_size=8, limit=64, widths=(2,), embedding=8,
        test_fraction=0.0, latent="discrete", latent_codes=3,
    )  # fmt: skip
    words = ["--env", "two-rooms-stochastic", "--episodes", "1", "--planner", "icem", "--population", "8", "--elites", "2",
             "--iterations", "1", "--record", "1"]  # fmt: skip
    rewards = []
    for risk in ("worst", "0.3", "mean"):
        assert main(["act", str(coded), *words, "--risk", risk]) == 0
        result = json.loads((coded / "acting.json").read_text())
        assert result["planner"]["risk"] == (float(risk) if risk == "0.3" else risk)
        rewards.append(result["rows"]["icem"]["reward"])
    assert rewards[1] not in (rewards[0], rewards[2])  # the better of the futures: other plans
    act(coded, env="two-rooms-stochastic", episodes=1, planner="icem", population=8, elites=2, iterations=1)
    assert json.loads((coded / "acting.json").read_text())["rows"]["icem"]["reward"] == rewards[2]  # the mean is the default
    with pytest.raises(UserError, match="--latent discrete"):
        act(run, env="two-rooms", episodes=1, risk="worst")


def test_a_function_makes_a_shifted_world(run):
    options = {"episodes": 1, "planner": "random", "population": 4, "iterations": 1}
    made = partial(make_environment, "two-rooms", fixed=True, brightness=0.5)
    shifted, plain = act(run, env=made, **options), act(run, env="two-rooms", **options)
    assert (shifted["env"], plain["env"]) == ("TwoRooms", "two-rooms")
    assert shifted["rows"]["oracle"]["success"] == plain["rows"]["oracle"]["success"] == 1.0
    assert list(plain["rows"]) == ["random shooting", "random", "oracle"]
    assert shifted["rows"]["random"]["reward"] != plain["rows"]["random"]["reward"]
    assert shifted["recorded"]["episodes"][0]["animation"].endswith(".gif")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--env", "two-roms"], "two-rooms"),
        (["--env", "two-rooms", "--planner", "mpi"], "mppi"),
        (["--env", "CartPole-v1"], "Plan with --planner tree"),
        (["--env", "two-rooms", "--planner", "tree"], "--planner icem"),
        (["--env", "Pendulum-v1"], "actions have 1 each"),
        (["--env", "two-rooms", "--episodes", "0"], "episodes"),
        (["--env", "two-rooms", "--planner", "random", "--std", "1"], "std"),
        (["--env", "two-rooms", "--planner", "cem", "--std", "0"], "std"),
        (["--env", "two-rooms", "--deviations", "0"], "deviations"),
        (["--env", "two-rooms", "--risk", "2.5"], "risk"),
        (["--env", "two-rooms", "--risk", "worst"], "one future"),
    ],
)
def test_mistakes_are_named(run, words, told, capsys):
    assert main(["act", str(run), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_run_without_dynamics_cannot_act(tmp_path, capsys):
    pretrain("lejepa", data="digits", out=tmp_path / "run", steps=1, batch_size=8, limit=32, labels="none")
    assert main(["act", str(tmp_path / "run"), "--env", "two-rooms"]) == 2
    assert "predicts nothing of actions" in capsys.readouterr().err
