"""The loop: exact resume, accumulation, divergence, memory, collapse."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

from jepakit.errors import UserError
from jepakit.training.run_folder import RunFolder, step_of
from tests.commands import run_command
from tests.training.tiny_runs import tiny_trainer, tiny_words, untimed

SYSTEMS = ("i-jepa", "lejepa")


class Killed(BaseException):
    """What nothing in the loop may catch: the process is gone."""


class AtLine:
    """A logger that does something when a line of a step comes by."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def log(self, line):
        if line["step"] == self.step:
            self.act()

    def close(self):
        pass


def killed():
    raise Killed


def same_run(one, other):
    assert untimed(one.folder.read_metrics()) == untimed(other.folder.read_metrics())
    mine, theirs = one.system.state_dict(), other.system.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def run_to_end(path, system, **options):
    trainer = tiny_trainer(path, system, **options)
    assert trainer.train().ended == "finished"
    return trainer


# Before the first checkpoint, at a training and at a health line, and at the end.
@pytest.mark.parametrize(("system", "step"), [("lejepa", 3), ("lejepa", 4), ("i-jepa", 9), ("lejepa", 12)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, system, step):
    whole = run_to_end(tmp_path / "whole", system)
    broken = tiny_trainer(tmp_path / "broken", system)
    broken.loggers = [AtLine(step, killed)]
    with pytest.raises(Killed):
        broken.train()
    resumed = tiny_trainer(tmp_path / "broken", system)
    resumed.restore()
    assert resumed.step == {3: 0, 4: 0, 9: 5, 12: 10}[step]
    assert resumed.train().ended == "finished"
    same_run(whole, resumed)


@pytest.mark.parametrize(("system", "number"), [("lejepa", signal.SIGINT), ("i-jepa", signal.SIGTERM)])
def test_signal_finishes_the_step_and_resume_goes_on_exactly(tmp_path, system, number):
    whole = run_to_end(tmp_path / "whole", system)
    stopped = tiny_trainer(tmp_path / "stopped", system)
    stopped.loggers = [AtLine(8, lambda: os.kill(os.getpid(), number))]  # 8: in the middle of a metrics window
    outcome = stopped.train()
    assert (outcome.ended, outcome.step, outcome.signal) == ("interrupted", 8, number)
    assert step_of(stopped.folder.list_checkpoints()[-1]) == 8
    resumed = tiny_trainer(tmp_path / "stopped", system)
    resumed.restore()
    assert resumed.step == 8
    resumed.train()
    same_run(whole, resumed)


def test_a_step_that_draws_from_the_global_generator_resumes_exactly(tmp_path):
    """Dropout does; starting the data loader must not move the generator that a checkpoint restored."""

    def noisy(trainer):
        step = trainer.system.step
        trainer.forward = lambda batch: {**step(batch), "noise": torch.rand(())}
        return trainer

    whole = noisy(tiny_trainer(tmp_path / "whole", precision="float32"))
    whole.train()
    broken = noisy(tiny_trainer(tmp_path / "broken"))
    broken.loggers = [AtLine(9, killed)]
    with pytest.raises(Killed):
        broken.train()
    resumed = noisy(tiny_trainer(tmp_path / "broken"))
    resumed.restore()
    resumed.train()
    same_run(whole, resumed)
    noise = [line["loss/noise"] for line in whole.folder.read_metrics() if line["kind"] == "train"]
    assert len(set(noise)) == len(noise)


def test_lines_after_the_checkpoint_are_cut_and_a_torn_line_is_dropped(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.loggers = [AtLine(9, killed)]
    with pytest.raises(Killed):
        trainer.train()
    with open(trainer.folder.metrics, "a") as handle:
        handle.write('{"kind": "train", "st')
    assert [line["step"] for line in trainer.folder.read_metrics()] == [0, 3, 4, 6, 8, 9]
    trainer.restore()
    assert [line["step"] for line in trainer.folder.read_metrics()] == [0, 3, 4]
    assert all(json.loads(line) for line in trainer.folder.metrics.read_text().splitlines())


def test_files_a_killed_process_was_writing_are_removed(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.train()
    half = trainer.folder.checkpoints / ".step-00000011.writing"
    half.mkdir()
    (half / "rank-0.pt").write_bytes(b"half")
    (tmp_path / ".metrics.jsonl.writing").write_bytes(b"half")
    trainer.restore()
    assert not list(tmp_path.rglob("*.writing"))


def test_restoring_a_finished_run_trains_nothing(tmp_path):
    whole = run_to_end(tmp_path, "lejepa")
    lines = whole.folder.metrics.read_text()
    again = tiny_trainer(tmp_path)
    again.restore()
    assert again.ended == "finished"
    assert again.train().step == 12
    assert again.folder.metrics.read_text() == lines
    same_run(whole, again)


def test_restore_refuses_other_data_and_other_options(tmp_path):
    run_to_end(tmp_path, "lejepa")
    with pytest.raises(UserError, match="data changed"):
        tiny_trainer(tmp_path, limit=95).restore()
    with pytest.raises(UserError, match=r"does not fit .*config.yaml"):
        tiny_trainer(tmp_path, projector=(32, 16)).restore()
    with pytest.raises(UserError, match=r"does not fit .*config.yaml"):
        tiny_trainer(tmp_path, backbone="vit").restore()


def gradients(trainer, batch):
    """The gradient that one optimiser step would use, and the logged values."""
    found = {}
    trainer.optimizer.step = lambda: found.update(
        {name: p.grad.clone() for name, p in trainer.system.named_parameters() if p.grad is not None}
    )
    values = trainer.optimise(batch)
    return found, values


def test_accumulated_gradient_is_that_of_the_joined_batch(tmp_path):
    """Ragged targets: pieces of unequal numbers of predicted tokens must count by their tokens."""
    options = {
        "masks": {"targets": 3, "target_scale": [0.05, 0.6], "target_aspect": [0.5, 2.0]},
        "patch_size": 1,
        "target_norm": "none",  # "layer" rounds to float32
        "clip": None,
    }
    found = {}
    for pieces in (1, 4):
        trainer = tiny_trainer(tmp_path / str(pieces), "i-jepa", accumulate=pieces, **options)
        trainer.system.double()
        batch = {n: t.double() if t.is_floating_point() else t for n, t in next(trainer.batches()).items()}
        weights = batch["target_lengths"].sum(1).reshape(4, 4).sum(1).double()
        assert weights.max() > 1.2 * weights.min()  # else a plain mean over pieces would do
        found[pieces] = gradients(trainer, batch)
    (joined, values), (pieced, piece_values) = found[1], found[4]
    assert joined.keys() == pieced.keys()
    for name in joined:
        torch.testing.assert_close(pieced[name], joined[name], rtol=1e-9, atol=1e-9 * joined[name].abs().max().item())
    for name in ("loss", "loss/prediction", "grad_norm"):
        torch.testing.assert_close(piece_values[name], values[name], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("system", "options"), [("lejepa", {}), ("i-jepa", {"anti_collapse": "vicreg"})])
def test_accumulation_is_refused_where_the_loss_looks_across_the_batch(tmp_path, system, options):
    with pytest.raises(UserError, match=r"accumulate 2.*whole batch.*lower batch_size"):
        tiny_trainer(tmp_path, system, accumulate=2, **options)


def overflow_at(trainer, step):
    forward = trainer.system.step

    def broken(batch):
        terms = forward(batch)
        return {**terms, "loss": terms["loss"] * (np.nan if trainer.step >= step else 1.0)}

    trainer.forward = broken


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_diverged_run_stops_and_its_checkpoints_are_all_from_before(tmp_path, log_every):
    trainer = tiny_trainer(tmp_path, log_every=log_every, checkpoint_every=1, health_every=100)
    overflow_at(trainer, 4)
    with pytest.raises(UserError, match=r"diverged.*is from before.*lower lr"):
        trainer.train()
    assert step_of(trainer.folder.list_checkpoints()[-1]) == 4
    trainer.restore()
    assert trainer.step == 4
    assert all(torch.isfinite(t).all() for t in trainer.system.state_dict().values() if t.is_floating_point())
    assert all(np.isfinite(line["loss"]) for line in trainer.folder.read_metrics() if line["kind"] == "train")


def test_a_run_that_diverges_at_once_says_there_is_no_checkpoint(tmp_path):
    trainer = tiny_trainer(tmp_path, "i-jepa", lr=1e30, warmup=0.0, clip=None, log_every=1)
    with pytest.raises(UserError, match=r"diverged. There is no checkpoint yet.*lower lr \(now 1e[+]30\)"):
        trainer.train()
    assert not trainer.folder.list_checkpoints()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path, error, told):
    trainer = tiny_trainer(tmp_path)

    def fail(batch):
        raise error

    trainer.forward = fail
    if not told:
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            trainer.train()
        return
    with pytest.raises(UserError, match=r"batch_size 16.*--batch-size \(try 8\).*--size"):
        trainer.train()


def test_first_window_is_not_timed_from_before_the_training(tmp_path):
    trainer = tiny_trainer(tmp_path, steps=3)
    trainer.started = trainer.window_started = -1000.0
    trainer.train()
    assert all(line["time/step_s"] < 100 for line in trainer.folder.read_metrics() if line["kind"] == "train")


def test_collapse_ends_the_run_only_where_asked_and_stays_ended(tmp_path, monkeypatch):
    for stop in (False, True):
        trainer = tiny_trainer(tmp_path / str(stop), stop_on_collapse=stop)
        measure = trainer.monitor.measure

        def collapsed(step, steps, measure=measure):
            return {**measure(step, steps), "health/verdict": "collapsed" if step >= 4 else "healthy"}

        trainer.monitor.measure = collapsed
        outcome = trainer.train()
        assert (outcome.ended, outcome.step) == (("collapsed", 4) if stop else ("finished", 12))
    again = tiny_trainer(tmp_path / "True", stop_on_collapse=True)
    again.restore()
    assert again.ended == "collapsed"
    assert again.train().step == 4


def test_best_checkpoint_by_the_named_measure_is_kept_beside_the_newest(tmp_path):
    trainer = tiny_trainer(tmp_path, keep_best="rankme", health_every=2, checkpoint_every=3, keep_checkpoints=1)
    measure = trainer.monitor.measure
    scores = {0: 99.0, 2: 3.0, 4: 7.0, 6: 5.0, 8: 6.0, 10: 1.0, 12: 2.0}  # step 0 is no training
    trainer.monitor.measure = lambda step, steps: {**measure(step, steps), "health/rankme": scores[step]}
    trainer.train()
    assert [step_of(path) for path in trainer.folder.list_checkpoints()] == [4, 12]
    assert trainer.best == {"score": 7.0, "step": 4}


def test_metrics_lines_hold_the_mean_of_their_window(tmp_path):
    fine, coarse = (run_to_end(tmp_path / str(n), "lejepa", log_every=n) for n in (1, 5))
    same = [fine.system.state_dict()[n].equal(t) for n, t in coarse.system.state_dict().items()]
    assert all(same)
    each = [line for line in fine.folder.read_metrics() if line["kind"] == "train"]
    means = [line for line in coarse.folder.read_metrics() if line["kind"] == "train"]
    assert [line["step"] for line in means] == [5, 10, 12]
    for line, (start, stop) in zip(means, ((0, 5), (5, 10), (10, 12)), strict=True):
        for name in ("loss", "loss/sigreg", "lr", "grad_norm"):
            assert line[name] == pytest.approx(np.mean([one[name] for one in each[start:stop]]), rel=1e-6)
        assert line["progress"] == line["step"] / 12
        assert line["epoch"] == pytest.approx(line["step"] * 16 / len(coarse.dataset))


def test_bfloat16_starts_where_float32_does(tmp_path):
    for system in SYSTEMS:
        first = {}
        for precision in ("float32", "bfloat16"):
            trainer = tiny_trainer(tmp_path / system / precision, system, precision=precision)
            first[precision] = float(trainer.optimise(next(trainer.batches()))["loss"])
            values = [trainer.optimise(batch) for batch in trainer.batches()][-1]
            assert torch.isfinite(values["loss"])
            assert all(p.dtype == torch.float32 for p in trainer.system.parameters())
        assert first["bfloat16"] == pytest.approx(first["float32"], rel=0.02)
        assert first["bfloat16"] != first["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_compiled_step_is_the_step(tmp_path, system):
    """In processes of their own: the type checks of this test run are no code to compile."""
    losses = {}
    for compiled in ("compile", "no-compile"):
        words = tiny_words(system, tmp_path / compiled, labels="none", steps=2, log_every=1, health_every=2)
        done = run_command([*words, f"--{compiled}"], tmp_path)
        assert done.status == 0, done.said
        lines = RunFolder(tmp_path / compiled).read_metrics()
        losses[compiled] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses["compile"] == pytest.approx(losses["no-compile"], rel=1e-3)


def test_a_term_that_some_steps_leave_out_is_averaged_over_the_others(tmp_path):
    trainer = tiny_trainer(tmp_path, log_every=4, steps=8)
    for step in range(4):
        trainer.step = step + 1
        trainer.log({"loss": torch.tensor(1.0 + step), **({"loss/latent": torch.tensor(3.0)} if step % 2 else {})})
    (line,) = trainer.folder.read_metrics()
    assert (line["loss"], line["loss/latent"]) == (2.5, 3.0)
