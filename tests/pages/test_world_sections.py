"""What a page says of a world model: every part, what is missing and how to add it, and numbers that are none."""

import io

import numpy as np
import pytest
from PIL import Image

from jepakit.errors import UserError
from jepakit.pages.data import ReportData
from jepakit.pages.page import write_report
from jepakit.pages.world_data import Episode, check_acting, check_world

SECTIONS = ("acting", "episodes", "imagined", "rollouts", "states", "surprise")


def measured(**changed):
    curve = {"error": [0.1, 0.2], "low": [0.05, 0.1], "high": [0.2, 0.3]}
    auc = {"auc": 0.9, "low": 0.8, "high": 0.95}
    return {
        "format": 1,
        "windows": {"train": 20, "test": 10},
        "episodes": {"train": 10, "test": 5},
        "rollout": {
            "horizons": [1, 2], "interval": "95 %", "curves": {"model": curve, "nothing moves": curve, "linear": curve},
        },
        "state": {
            "variables": ["x", "y", "door"],
            "varies": [True, True, False],
            "spread": [3.0, 4.0, 0.0],
            "interval": "95 %",
            "rows": [
                {"features": name, "probe": "linear", "r": [r, r, None], "low": [0.1, 0.1, None], "high": [1.0, 1.0, None],
                 "error": [0.5, 0.6, 0.0]} for name, r in (("encoder", 0.99), ("random init", 0.4))
            ],
            "imagined": {"curves": {"model": [[1.0, 2.0]] * 3, "nothing moves": [[2.0, 4.0]] * 3}},
        },
        "surprise": {"interval": "95 %", "events": {"frozen": {**auc, "errors": [0.1, 1, 3, 4, 5], "change": auc}}},
        "planning": None,
    } | changed  # fmt: skip


def acted(**changed):
    row = {"episodes": 10, "success": 0.9, "low": 0.6, "high": 0.98, "reward": -3.0, "steps": 100, "cpu_seconds_a_step": 0.02}
    return {
        "format": 1,
        "env": "two-rooms",
        "planner": {"name": "mppi", "horizon": 20},
        "rows": {"mppi": row, "random": {**row, "success": 0.1, "low": 0.02, "high": 0.4}},
        "plan_s": {"mean": 0.1, "p50": 0.1, "p99": 0.2},
        "recorded": {
            "landscape": {
                "axes": [[-1.0, 0.0, 1.0]] * 2, "cost": [[3.0, 2.0, 1.0]] * 3, "chosen": [0.0, 1.0], "mean": [0.0, 0.5],
                "plan_cost": 0.9, "step": 0, "horizon": 20,
            }
        },
    } | changed  # fmt: skip


def recorded(**changed):
    picture = io.BytesIO()
    Image.new("P", (8, 8)).save(picture, "GIF")
    states = np.cumsum(np.ones((11, 3), dtype=np.float32), axis=0)
    planned = Episode("mppi", True, 10, 1, picture.getvalue(), states, states[-1], np.array([0, 5]), np.zeros((2, 4, 3)))
    return [planned, Episode("random", False, 10, 1, picture.getvalue(), states)]


def page(tmp_path, **changed):
    given = {
        "name": "rooms", "folder": "runs/rooms", "world_model": True, "acting": acted(), "episodes": recorded(),
        "evaluation": {"rows": [], "world_model": measured()}, "embeddings": np.random.default_rng(0).normal(size=(45, 4)),
    }  # fmt: skip
    return write_report(tmp_path / "report.html", ReportData(**given | changed)).read_text()


def test_every_part_is_there(tmp_path):
    shown = page(tmp_path)
    assert all(f'<section id="{name}">' in shown for name in SECTIONS)
    assert shown.count("data:image/gif;base64,") == 2
    for words in ("90.0%", "60.0% – 98.0%", "Cost landscape", "0.990", "frozen", "real and imagined paths", "Goals reached"):
        assert words in shown.lower() or words in shown
    assert ">door<" not in shown  # which never varies


def test_what_is_missing_is_said_with_the_command(tmp_path):
    shown = page(tmp_path, acting=None, episodes=(), evaluation=None)
    assert "jepakit act runs/rooms --env two-rooms" in shown
    assert shown.count("jepakit evaluate runs/rooms") >= 3


def test_other_runs_have_none_of_it(tmp_path):
    shown = page(tmp_path, world_model=False, acting=None, episodes=(), evaluation=None)
    assert not any(f'<section id="{name}">' in shown for name in SECTIONS)


def test_states_that_are_no_place_are_shown_one_by_one(tmp_path):
    state = {**measured()["state"], "variables": ["cos", "sin", "velocity"]}
    shown = page(tmp_path, evaluation={"rows": [], "world_model": measured(state=state)})
    assert "velocity, real and imagined" in shown
    assert "paths" not in shown.split('id="imagined"')[1].split("</section>")[0].split("<svg")[1]


def test_no_states_no_pictures_no_numbers(tmp_path):
    blind = [Episode("mppi", False, 3)]
    nothing = {"error": [float("nan"), float("inf")], "low": [None, None], "high": [None, None]}
    rollout = {**measured()["rollout"], "curves": {"model": nothing}}
    shown = page(tmp_path, episodes=blind, evaluation={"rows": [], "world_model": measured(state=None, rollout=rollout)})
    assert "no states to compare" in shown
    assert "draws no pictures" in shown
    assert "No value is a number" in shown


def test_one_number_of_an_action_is_a_strip(tmp_path):
    strip = {"axes": [[-1.0, 0.0, 1.0]], "cost": [[3.0, 2.0, 1.0]], "chosen": [0.5], "plan_cost": 1.0, "horizon": 5}
    shown = page(tmp_path, acting=acted(recorded={"landscape": strip}))
    assert shown.count('class="cost"') == 3


def test_strangers_files_are_refused():
    check_world(measured(), "evaluation.json")
    check_acting(acted(), "acting.json")
    for found in ({}, [], {**measured(), "format": 2}, measured(rollout=[]), measured(surprise={"events": {}})):
        with pytest.raises(UserError, match=r"evaluation\.json"):
            check_world(found, "evaluation.json")
    for found in ([], {"rows": []}, {"rows": {"a": {}}}):
        with pytest.raises(UserError, match=r"acting\.json"):
            check_acting(found, "acting.json")
