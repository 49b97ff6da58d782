import copy

import pytest
import torch
from torch import nn

from jepakit.core.targets import TARGETS, make_target
from jepakit.errors import UserError
from jepakit.nn.tokens import Ids


def encoder(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


class Owner(nn.Module):
    """A system in small: it owns the encoder, the target only follows it."""

    def __init__(self, kind, teacher=None):
        super().__init__()
        self.encoder = encoder()
        self.target = make_target(kind, self.encoder, teacher)


@pytest.mark.parametrize("kind", TARGETS)
def test_gradient_flows_only_where_declared(kind):
    owner = Owner(kind, encoder(1) if kind == "frozen" else None)
    output = owner.target(torch.randn(5, 4))
    assert output.requires_grad == owner.target.differentiable == (kind == "shared")
    with torch.no_grad():
        assert not owner.target(torch.randn(5, 4)).requires_grad


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("shared", set()), ("stop-gradient", set()), ("ema", {"target.average"}), ("frozen", {"target.teacher"})],
)
def test_the_shared_encoder_is_registered_once(kind, kept):
    owner = Owner(kind, encoder(1) if kind == "frozen" else None)
    names = {name for name in owner.state_dict() if not name.startswith("encoder.")}
    assert {".".join(name.split(".")[:2]) for name in names} == kept
    trained = sum(p.numel() for p in owner.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in owner.encoder.parameters())


def test_shared_and_stop_gradient_are_the_encoder_itself_also_in_a_copy():
    for kind in ("shared", "stop-gradient"):
        owner = copy.deepcopy(Owner(kind)).double()
        with torch.no_grad():
            owner.encoder[0].weight.mul_(2)
        x = torch.randn(5, 4, dtype=torch.float64)
        torch.testing.assert_close(owner.target(x), owner.encoder(x))


def test_ema_is_the_weighted_mean_and_copies_buffers():
    owner = Owner("ema")
    before = copy.deepcopy(owner.target.average)
    with torch.no_grad():
        for p in owner.encoder.parameters():
            p.add_(torch.randn_like(p))
    owner.encoder(torch.randn(64, 4) + 3)  # moves the running statistics
    owner.target.update(0.9)
    for name, p in owner.target.average.named_parameters():
        expected = 0.9 * before.get_parameter(name) + 0.1 * owner.encoder.get_parameter(name)
        torch.testing.assert_close(p, expected)
        assert not p.requires_grad
    assert not torch.equal(owner.target.average[1].running_mean, before[1].running_mean)
    for a, b in zip(owner.target.average.buffers(), owner.encoder.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_ema_at_its_ends_is_exact(momentum):
    owner = Owner("ema")
    start = [p.clone() for p in owner.target.average.parameters()]
    with torch.no_grad():
        for p in owner.encoder.parameters():
            p.copy_(torch.randn_like(p) * 1e3)
    owner.target.update(momentum)
    expected = owner.encoder.parameters() if momentum == 0 else start
    assert all(torch.equal(a, b) for a, b in zip(owner.target.average.parameters(), expected, strict=True))


def test_only_ema_moves():
    x = torch.randn(5, 4)
    for kind in ("shared", "stop-gradient", "frozen"):
        owner = Owner(kind, encoder(1) if kind == "frozen" else None).eval()
        before = owner.target(x)
        owner.target.update(0.5)
        assert torch.equal(owner.target(x), before)
    with pytest.raises(UserError, match=r"momentum must be at least 0 and at most 1, got 1\.5"):
        Owner("ema").target.update(1.5)


def test_a_frozen_teacher_stays_as_it_is():
    owner = Owner("frozen", encoder(1)).train()
    before = copy.deepcopy(owner.target.state_dict())
    assert not owner.target.teacher.training
    owner.target(torch.randn(64, 4) + 3)
    assert all(torch.equal(v, before[k]) for k, v in owner.target.state_dict().items())


def test_asks_the_encoder_for_what_is_asked_of_it():
    class Recorder(nn.Module):
        def forward(self, inputs, **asked):
            self.asked = asked
            return inputs

    recorder = Recorder()
    target = make_target("stop-gradient", recorder)
    target(torch.zeros(1))
    assert recorder.asked == {}
    target(torch.zeros(1), levels=(2, 4))
    assert recorder.asked == {"levels": (2, 4)}
    ids = Ids(torch.zeros(1, 2, dtype=torch.int64))
    target(torch.zeros(1), keep=ids)
    assert recorder.asked == {"keep": ids}


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'stop-gradient'"):
        make_target("stop_gradient", encoder())
    with pytest.raises(UserError, match="needs a teacher"):
        make_target("frozen", encoder())
    with pytest.raises(UserError, match="'ema' takes no teacher"):
        make_target("ema", encoder(), encoder())
    with pytest.raises(UserError, match="bfloat16"):
        make_target("ema", encoder().bfloat16())
