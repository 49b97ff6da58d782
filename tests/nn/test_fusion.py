import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from jepakit.errors import UserError
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.fusion import FusedEncoder, FusionConfig

STEPS = 6
NAMES = ("vitals", "image", "notes")


def fused(dtype=torch.float64):
    torch.manual_seed(0)
    image = ConvNet(ConvNetConfig(image_size=(8, 8), channels=1, dim=16, width=8))
    config = FusionConfig(dim=16, depth=2, heads=2, resolution=0.5, horizon=50)
    model = FusedEncoder({"vitals": nn.Linear(3, 5), "image": image, "notes": nn.Linear(4, 7)}, config)
    return model.to(dtype)


def observations(batch=4, missing=0.4, seed=0):
    """Vitals twice a step, an image every third, notes at odd times; each missing here and there."""
    g = torch.Generator().manual_seed(seed)
    clock = torch.arange(STEPS, dtype=torch.float64).expand(batch, -1)
    shapes = {"vitals": (2 * STEPS, 3), "image": (2, 1, 8, 8), "notes": (3, 4)}
    times = {
        "vitals": torch.arange(2 * STEPS) / 2.0,
        "image": torch.tensor([0.0, 3.0]),
        "notes": torch.tensor([4.7, 0.1, 2.2]),
    }
    inputs = {"times": clock}
    for name, (steps, *shape) in shapes.items():
        inputs[name] = {
            "values": torch.randn(batch, steps, *shape, generator=g, dtype=torch.float64),
            "times": times[name].double().expand(batch, -1).clone(),
            "present": torch.rand(batch, steps, generator=g) >= missing,
        }
    return inputs


def rows(inputs, index):
    """Some samples of the batch alone."""
    return {k: rows(v, index) if isinstance(v, dict) else v[index] for k, v in inputs.items()}


def without(inputs, name):
    """The same, one modality not observed at all."""
    return {**inputs, name: {**inputs[name], "present": torch.zeros_like(inputs[name]["present"])}}


def test_a_state_for_each_base_step_whatever_the_rates():
    tokens = fused()(observations())
    assert tokens.values.shape == (4, STEPS, 16)
    assert tokens.positions[..., 0].tolist() == [list(range(STEPS))] * 4
    asked = {**observations(), "times": torch.tensor([[2.0], [0.0], [9.0], [-1.0]]).double(), "lengths": torch.ones(4).long()}
    assert fused()(asked).values.shape == (4, 1, 16)
    assert fused()(asked).lengths.tolist() == [1] * 4


def test_each_sample_is_as_if_alone():
    """Whatever the others have or lack: also where it makes the sequence of the batch longer."""
    model, inputs = fused(), observations(missing=0.6)
    together = model(inputs).values
    for i in range(4):
        torch.testing.assert_close(model(rows(inputs, slice(i, i + 1))).values, together[i : i + 1])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_whatever_stands_in_a_missing_place_has_no_effect(poison):
    model, inputs = fused(), observations()
    poisoned = copy.deepcopy(inputs)
    for name in NAMES:
        poisoned[name]["values"][~inputs[name]["present"]] = poison
        poisoned[name]["times"][~inputs[name]["present"]] = poison
    assert torch.equal(model(inputs).values, model(poisoned).values)
    model(poisoned).values.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_missing_is_the_same_as_never_listed():
    """A dense grid with gaps, and the short list of what is there, are one thing; so is a modality of no steps."""
    model, inputs = fused(), rows(observations(missing=0), slice(0, 2))
    chosen = torch.tensor([7, 2, 10, 3])
    dense, short = copy.deepcopy(inputs), copy.deepcopy(inputs)
    dense["vitals"]["present"][:] = False
    dense["vitals"]["present"][:, chosen] = True
    short["vitals"] = {"values": inputs["vitals"]["values"][:, chosen], "times": inputs["vitals"]["times"][:, chosen]}
    torch.testing.assert_close(model(dense).values, model(short).values)
    none = {**inputs, "notes": {"values": torch.zeros(2, 0, 4).double(), "times": torch.zeros(2, 0).double()}}
    torch.testing.assert_close(model(without(inputs, "notes")).values, model(none).values)


@given(st.integers(0, 2 * STEPS - 1))
def test_a_state_knows_what_was_observed_by_then_and_nothing_later(step):
    """It may be the target of a prediction: the past of it must not hold the future."""
    model, inputs = fused(), observations(missing=0)
    changed = copy.deepcopy(inputs)
    changed["vitals"]["values"][:, step] += 1
    difference = (model(inputs).values - model(changed).values).abs().amax((0, 2))
    knows = torch.arange(STEPS) >= step / 2
    assert (difference[~knows] == 0).all()
    assert (difference[knows] > 1e-6).all()


def test_a_state_does_not_depend_on_what_else_is_asked_for():
    model, inputs = fused(), observations()
    some = {**inputs, "times": inputs["times"][:, [4, 1]]}
    torch.testing.assert_close(model(some).values, model(inputs).values[:, [4, 1]])


def test_observations_of_one_moment_have_no_order():
    model, inputs = fused(), observations(missing=0)
    for name in NAMES:
        inputs[name]["times"].zero_()
    shuffled = copy.deepcopy(inputs)
    order = torch.randperm(2 * STEPS, generator=torch.Generator().manual_seed(0))
    shuffled["vitals"]["values"] = inputs["vitals"]["values"][:, order]
    torch.testing.assert_close(model(inputs).values, model(shuffled).values)


def test_nothing_observed_gives_a_learned_empty_state():
    model, inputs = fused(), observations(missing=0)
    for name in NAMES:
        inputs[name]["present"][1] = False  # one sample without anything
        inputs[name]["times"][2] += 2.5  # one whose first observation comes late
    states = model(inputs).values
    assert torch.isfinite(states).all()
    torch.testing.assert_close(states[2, :3], states[1, :3])
    assert (states[2, 3:] - states[1, 3:]).abs().max() > 1e-3
    torch.autograd.grad(states[1].square().sum(), [model.nothing], retain_graph=True)
    bare = inputs
    for name in NAMES:
        bare = without(bare, name)
    nobody = model(bare).values
    torch.testing.assert_close(nobody, states[1:2].expand(4, -1, -1))
    assert torch.autograd.grad(nobody.sum() + nobody.square().sum(), [model.nothing])[0].abs().sum() > 0


def gradients(model, inputs):
    model.zero_grad()
    model(inputs).values.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("absent", NAMES)
def test_a_modality_missing_from_the_whole_batch_takes_part_with_zero_gradient(absent):
    """A parameter without a gradient would stop DDP; one with another than zero would learn from nothing."""
    got = gradients(fused(), without(observations(missing=0), absent))
    assert all(gradient is not None for gradient in got.values())
    for name in NAMES:
        size = sum(float(g.abs().sum()) for n, g in got.items() if n.startswith((f"encoders.{name}.", f"project.{name}.")))
        assert (size == 0) == (name == absent)


def test_gradient_of_a_batch_is_the_sum_over_its_samples():
    model, inputs = fused(), observations(missing=0.5)
    whole = {name: g.clone() for name, g in gradients(model, inputs).items()}
    alone = [gradients(model, rows(inputs, slice(i, i + 1))) for i in range(4)]
    # `zero_grad` gives every call its own gradients.
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in alone))


def test_given_encoders_keep_their_weights():
    trained = nn.Linear(3, 5)
    before = trained.weight.detach().clone()
    FusedEncoder({"a": trained}, FusionConfig(dim=8, heads=2))
    assert torch.equal(trained.weight, before)


def test_large_times_are_told_apart():
    """Seconds since 1970: in float32 the angles of neighbouring minutes would be noise."""
    model = fused()
    times = 1.7e9 + torch.tensor([0.0, 0.5, 20.0], dtype=torch.float64)
    near, far = model._time(times).diff(dim=0).norm(dim=1)
    assert 0.1 < near < far
    torch.testing.assert_close(near, model._time(times - times[0])[:2].diff(dim=0).norm())


def test_mistakes():
    model, inputs = fused(), observations()
    with pytest.raises(UserError, match="lacks 'image'"):
        model({name: part for name, part in inputs.items() if name != "image"})
    with pytest.raises(UserError, match="Did you mean 'notes'"):
        model({**inputs, "note": inputs["notes"]})
    with pytest.raises(UserError, match=r"vitals: present \[4, 2\]"):
        model({**inputs, "vitals": {**inputs["vitals"], "present": inputs["image"]["present"]}})
    with pytest.raises(UserError, match="cannot name a modality"):
        FusedEncoder({"values": nn.Linear(1, 1)}, FusionConfig())
    with pytest.raises(UserError, match="does not say the width"):
        FusedEncoder({"a": nn.ReLU()}, FusionConfig())
    with pytest.raises(UserError, match=r"below fusion\.horizon"):
        FusionConfig(resolution=10, horizon=1)
    with pytest.raises(UserError, match="multiple of heads"):
        FusionConfig(dim=10, heads=4)
