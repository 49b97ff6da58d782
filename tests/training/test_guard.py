"""The outlier guard: what it leaves out, what it lets through, and that a guarded run resumes exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.training.guard import FEWEST, IN_A_ROW, REMEMBERED, OutlierGuard
from tests.training.tiny_runs import tiny_trainer, untimed

ONE = torch.tensor(1.0)


def judged(norms, factor=20.0, losses=None):
    guard = OutlierGuard(factor, torch.device("cpu"))
    losses = [1.0] * len(norms) if losses is None else losses
    pairs = zip(norms, losses, strict=True)
    return guard, [int(guard.judge(i, torch.tensor(loss), torch.tensor(norm))) for i, (norm, loss) in enumerate(pairs)]


def test_only_what_lies_above_the_multiple_of_the_median_is_left_out():
    norms = [*np.linspace(1.0, 3.0, 40), 39.0, 41.0, 2.0]  # median 2
    _, left_out = judged(norms)
    assert left_out == [0] * 41 + [1, 0]


def test_nothing_is_judged_before_there_is_a_history_but_what_is_no_number():
    _, left_out = judged([1.0] * 10 + [1e9, np.nan, np.inf] + [1.0] * FEWEST)
    assert [i for i, out in enumerate(left_out) if out] == [11, 12]


def test_a_loss_that_is_no_number_is_enough():
    _, left_out = judged([1.0] * 3, losses=[1.0, np.nan, np.inf])
    assert left_out == [0, 1, 1]


def test_without_a_factor_all_numbers_are_applied():
    _, left_out = judged([1.0] * 50 + [1e9, np.nan], factor=None)
    assert left_out == [0] * 51 + [1]


def test_what_was_left_out_does_not_move_the_median_and_is_counted():
    guard, left_out = judged([1.0] * 50 + [1e9] * 20)
    assert left_out == [0] * 50 + [1] * 20
    assert (guard.median, guard.in_a_row) == (1.0, 20)
    guard.judge(70, ONE, ONE)
    assert guard.in_a_row == 0


def test_a_slow_rise_is_followed():
    """Ten thousandfold within 1,000 steps: 2.3 times within half the history."""
    _, left_out = judged(list(np.geomspace(1e-2, 1e2, 1000)))
    assert not any(left_out)
    assert 100 ** (4 * REMEMBERED / 2 / 1000) < 20


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_that_is_left_out_changes_neither_weights_nor_moments(fused):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    guard = OutlierGuard(None, torch.device("cpu"))
    before = None
    for left_out in (0.0, 1.0, 0.0):
        weight.grad = torch.full((3,), torch.nan if left_out else 1.0)
        before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values())]
        guard.apply(optimizer, torch.tensor(left_out))
        after = [weight.detach(), *optimizer.state[weight].values()]
        assert all(map(torch.equal, before, after)) == (left_out == 1.0) or len(before) != len(after)
    assert int(optimizer.state[weight]["step"]) == 2


def with_spikes(trainer, spikes, size):
    """The trainer with the gradient of some steps enlarged, as a broken sample would."""
    trainer.forward = lambda batch: {
        name: term * (size if trainer.step in spikes else 1.0) for name, term in trainer.system.step(batch).items()
    }
    return trainer


LONG = {"steps": 60, "log_every": 10, "health_every": 100, "checkpoint_every": 25, "clip": None}


def test_bad_batches_are_left_out_and_said(tmp_path, capsys):
    spikes = {40, 41, 47}
    trainer = with_spikes(tiny_trainer(tmp_path, **LONG), spikes, 1e6)
    weights, changed = [], []
    for batch in trainer.batches():
        weights = [p.detach().clone() for p in trainer.system.parameters()]
        trainer.log(trainer.optimise(batch))
        changed.append(not all(map(torch.equal, weights, trainer.system.parameters())))
    assert {step for step, moved in enumerate(changed) if not moved} == spikes
    assert "step 50: of the last 10 updates 3 left out" in capsys.readouterr().err
    lines = [line for line in trainer.folder.read_metrics() if line["kind"] == "train"]
    assert [line["skipped"] for line in lines] == pytest.approx([0, 0, 0, 0, 0.3, 0])


def test_a_run_with_bad_batches_ends_where_a_clean_one_does(tmp_path):
    last = {}
    for name, spikes, outlier in (("clean", set(), 20.0), ("guarded", {40, 45}, 20.0), ("open", {40, 45}, None)):
        trainer = with_spikes(tiny_trainer(tmp_path / name, **LONG, outlier=outlier), spikes, -1e6)
        trainer.train()
        last[name] = [line["loss"] for line in trainer.folder.read_metrics() if line["kind"] == "train"][-1]
    assert last["guarded"] == pytest.approx(last["clean"], rel=0.1)
    assert last["open"] > 1.2 * last["clean"]


def test_a_run_killed_among_bad_batches_resumes_exactly(tmp_path):
    spikes, whole = {40, 49, 50, 52}, None
    for stop in (60, 51):  # 51: one update of a row was left out before the checkpoint of step 50
        trainer = with_spikes(tiny_trainer(tmp_path / str(stop), **LONG), spikes, 1e6)
        if stop == 60:
            trainer.train()
            whole = trainer
            continue
        trainer.loggers = []
        batches = trainer.batches()
        for _ in range(stop):
            trainer.log(trainer.optimise(next(batches)))
            if trainer.step % 25 == 0:
                trainer.save()
        again = with_spikes(tiny_trainer(tmp_path / str(stop), **LONG), spikes, 1e6)
        again.restore()
        assert (again.step, again.guard.in_a_row) == (50, 1)
        again.train()
        ours = [line for line in untimed(again.folder.read_metrics()) if line["kind"] == "train"]
        assert ours == [line for line in untimed(whole.folder.read_metrics()) if line["kind"] == "train"]
        assert all(map(torch.equal, again.system.parameters(), whole.system.parameters()))


def test_a_gradient_that_stays_too_large_ends_the_run(tmp_path):
    trainer = with_spikes(tiny_trainer(tmp_path, **LONG), range(35, 60), 1e6)
    with pytest.raises(UserError, match=r"20 times above its median.*last \d+ updates up to step 60.*step-00000050.*lower lr"):
        trainer.train()
    assert trainer.guard.in_a_row >= IN_A_ROW


def test_weights_that_overflow_are_not_saved(tmp_path):
    """An update can overflow without any loss having seen it."""
    trainer = tiny_trainer(tmp_path)
    with torch.no_grad():
        next(trainer.system.parameters()).view(-1)[0] = torch.inf
    trainer.step = 1
    with pytest.raises(UserError, match=r"weights are no longer numbers after step 1.*There is no checkpoint yet"):
        trainer.save()
    assert not trainer.folder.list_checkpoints()
