"""H-JEPA: what learns and what stays, its loss against the formula, and a run that keeps the world model it stands on."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import jepakit
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.interop.runs import Run
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.systems.h_jepa import HJEPA, HJEPAConfig
from jepakit.systems.pldm import PLDM, PLDMConfig

BLOCK, STEPS = 2, 3  # numbers of a lower action block, and such blocks to an upper step


def inputs(steps=1, horizon=2, shift=0.0, **changes):
    given = {"shape": (3,), "mean": (shift,) * 3, "std": (1.0 + shift,) * 3, "history": 1, "horizon": horizon}
    return TrajectoryInputs(action_mean=(0.0,) * BLOCK * steps, action_std=(1.0,) * BLOCK * steps, **{**given, **changes})


def lower(embedding=6):
    torch.manual_seed(1)
    model = PLDM(PLDMConfig(embedding=embedding, widths=(4,), inverse_hidden=8), inputs()).eval()
    return SimpleNamespace(model=model, inputs=model.inputs)


def system(horizon=3, shift=0.5, **options):
    torch.manual_seed(0)
    return HJEPA(HJEPAConfig(**{"macro": 2, "hidden": 16, **options}), inputs(STEPS, horizon, shift), lower=lower())


def batch(size=12, steps=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": torch.randn(size, steps + 1, 3, generator=generator),
        "actions": torch.randn(size, steps, BLOCK * STEPS, generator=generator),
        "step": torch.tensor(0), "progress": torch.tensor(1.0),
    }  # fmt: skip


@pytest.mark.parametrize("embedding", [None, 4])
def test_the_loss_is_the_formula(embedding):
    model, given = system(embedding=embedding).eval(), batch()
    found = model.step(given)
    z, macro = model.encode(given["inputs"]).values, model.predictor.macro(given["actions"])
    state, errors = z[:, 0], []
    for t in range(3):
        state = model.above.predictor.advance(state, macro[:, t])
        errors.append(F.mse_loss(state, z[:, t + 1]))
    torch.testing.assert_close(found["prediction"], errors[0])
    torch.testing.assert_close(found["rollout"], torch.stack(errors[1:]).mean())
    total = found["prediction"] + found["rollout"] + found["macro_sigreg"] / 12
    if embedding is not None:
        total = total + 12.8 * found["sigreg"] / 12
    torch.testing.assert_close(found["loss"], total)
    assert ("sigreg" in found) == (embedding is not None)


def test_embeddings_are_the_lower_levels_whatever_the_numbers_were_normalised_with():
    model, below, seen = system(shift=0.5).eval(), lower(), torch.randn(4, 2, 3)
    expected = below.model.encode(below.inputs.normalise(seen)).values
    torch.testing.assert_close(model.encode(model.inputs.normalise(seen)).values, expected)


@pytest.mark.parametrize("embedding", [None, 4])
def test_the_upper_level_learns_and_the_lower_one_stays(embedding):
    model = system(embedding=embedding).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = [parameter for group in model.parameter_groups() for parameter in group["params"]]
    optimiser = torch.optim.SGD(groups, lr=1e-2)
    model.step(batch())["loss"].backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {name for name in before if ".model." in name}
    assert frozen
    assert not moved & frozen
    trained = {name.split(".")[0] + "." + name.split(".")[1] for name in moved if name.startswith("predictor")}
    assert trained == {"predictor.macro", "predictor.predictor"}
    assert any("encoder.projector" in name for name in moved) == (embedding is not None)


@pytest.mark.parametrize("embedding", [None, 4])
def test_both_levels_by_themselves_agree_with_the_whole(embedding):
    model, given = system(embedding=embedding).eval(), batch()
    history = {"inputs": given["inputs"][:, :1], "actions": given["actions"][:, :0]}
    imagined = model.imagined(history, given["actions"])
    start = model.encode(given["inputs"][:, :1]).values[:, 0]
    above = model.above.rollout(State(start), model.predictor.macro(given["actions"])).embeddings
    torch.testing.assert_close(above, imagined)
    # Below: lower steps, each seen from above.
    one, seen = lower(), torch.randn(5, 1, 3)
    actions = torch.randn(5, STEPS, BLOCK)
    theirs = one.model.rollout(one.model.observe({"inputs": seen, "actions": actions[:, :0]}), actions).embeddings
    below = model.below
    state = below.observe({"inputs": seen, "actions": actions[:, :0]})
    torch.testing.assert_close(below.rollout(state, actions).embeddings, model.encoder.projector(theirs))
    ours = model.inputs.normalise(one.inputs.std[0] * seen + one.inputs.mean[0])
    torch.testing.assert_close(below.embedding(state), model.encode(ours).values[:, 0])


def test_macro_actions_become_gaussian_and_tell_what_blocks_lead_to():
    """A point moved by the sum of a block, which two numbers can tell."""
    torch.manual_seed(0)

    class Plain(torch.nn.Module):
        def forward(self, observations):
            return observations

    below = lower(embedding=3)
    below.model.encoder.encoder, below.model.encoder.projector = Plain(), Plain()
    below.model.target.encoder = below.model.encoder
    model = HJEPA(HJEPAConfig(macro=2, hidden=64), inputs(STEPS, 2), lower=below).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)

    def draw(size):
        actions = torch.randn(size, 2, BLOCK * STEPS)
        push = F.pad(actions.unflatten(2, (STEPS, BLOCK)).sum(2), (0, 1))
        start = torch.randn(size, 1, 3)
        return {**batch(), "inputs": torch.cat([start, start + push.cumsum(1)], 1), "actions": actions}

    for step in range(300):
        model.step({**draw(128), "step": torch.tensor(step)})["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    given = draw(1000)
    model.eval()
    with torch.no_grad():
        terms, macro = model.step(given), model.predictor.macro(given["actions"][:, 0])
    still = (given["inputs"][:, 1] - given["inputs"][:, 0]).square().mean()
    assert terms["prediction"] < 0.1 * still
    assert macro.mean(0).abs().max() < 0.3
    assert (macro.std(0) - 1).abs().max() < 0.3


def test_what_does_not_fit_the_lower_level_is_named():
    with pytest.raises(UserError, match=r"lower: .*--lower RUN"):
        HJEPA(HJEPAConfig(), inputs(STEPS))
    for given, message in (
        (inputs(1), "multiple of the lower run's frame_skip"),
        (inputs(STEPS, shape=(2,), mean=(0.0,) * 2, std=(1.0,) * 2), r"shape \[3\], these are \[2\]"),
        (inputs(STEPS, history=2), "history must be 1"),
    ):
        with pytest.raises(UserError, match=message):
            HJEPA(HJEPAConfig(), given, lower=lower())
    for options in ({"macro": 0}, {"hidden": 0}, {"embedding": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            HJEPAConfig(**options)


TINY = {"steps": 2, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "health_samples": 8, "limit": 64}


def test_a_run_keeps_its_lower_level_and_acts_on_both(measured_on_little, tmp_path):
    pytest.importorskip("gymnasium")
    below, run = tmp_path / "below", tmp_path / "run"
    jepakit.pretrain("pldm", data="pendulum", out=below, embedding=8, widths=(2,), inverse_hidden=8, **TINY)
    options = {"data": "pendulum", "frame_skip": 8, "hidden": 8, "macro": 2, **TINY}
    jepakit.pretrain("h-jepa", out=run, lower=str(below), **options)
    weights = Run(below).system.state_dict()
    shutil.rmtree(below)
    loaded = Run(run).system
    kept = loaded.below.state_dict()
    assert all(torch.equal(kept[f"encoder.{name[8:]}"], value) for name, value in weights.items() if name[:8] == "encoder.")
    search = {"planner": "cem", "population": 8, "elites": 2, "iterations": 1}
    result = jepakit.act(run, env="pendulum", episodes=2, horizon=3, replan=1, record=1, **search)
    assert set(result["rows"]) == {"cem", "random", "oracle"}
    with pytest.raises(UserError, match=r"run of 'h-jepa'.*pldm or lewm"):
        jepakit.pretrain("h-jepa", out=tmp_path / "third", lower=str(run), **{**options, "frame_skip": 16})
