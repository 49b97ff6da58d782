"""The training loop: one class, read from `train` down."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from jepakit.collectives import global_count, rank, world_size
from jepakit.core.batch import Batch, map_tensors, split_batch
from jepakit.core.system import System
from jepakit.device import autocast, to_device
from jepakit.errors import UserError
from jepakit.modalities.modality import Companion
from jepakit.randomness import derive_seed
from jepakit.training.checkpoints import all_finite, restore_checkpoint, write_checkpoint
from jepakit.training.config import TrainingConfig, check_pieces
from jepakit.training.cost import memory_advice
from jepakit.training.distributed import full, gradient_sync, is_main, largest_over_ranks, of_main, wait_for_all, wrap
from jepakit.training.faults import data_fault
from jepakit.training.guard import IN_A_ROW, OutlierGuard
from jepakit.training.health import Monitor
from jepakit.training.loggers import Logger
from jepakit.training.optimizer import build_optimizer
from jepakit.training.order import DrawnDataset, StreamSampler
from jepakit.training.progress import Progress
from jepakit.training.run_folder import RunFolder
from jepakit.training.schedules import set_schedule
from jepakit.training.signals import Signals, outlive_signals, start_workers

AGREE_EVERY = 5  # steps between the ranks' asking each other whether one was told to stop


@dataclass(frozen=True)
class Outcome:
    """How a training ended: "finished", "interrupted" or "collapsed", after how many steps, and the last verdict."""

    ended: str
    step: int
    verdict: str
    signal: int | None = None


class Trainer:
    """Trains a system and leaves metrics, checkpoints and weights in the run folder.

    Of several ranks each has a trainer of its own, with the same arguments. All of them come to the same numbers and
    decisions; rank 0 writes.

    Args:
        system: on its device.
        dataset: gives samples by index; picklable when `config.workers` is above 0.
        config: `steps` and `workers` decided. `batch_size` is that of all ranks together.
        folder: created.
        monitor: measures the health, or what else is to be watched.
        progress: what a person sees.
        loggers: where metrics go besides `metrics.jsonl`.
        device, dtype: where and in which autocast precision.
        fingerprint: of the data; a resumed run must have the same.
        companions: further streams that each step draws from, by name.
    """

    def __init__(
        self,
        system: System,
        dataset: Any,
        config: TrainingConfig,
        folder: RunFolder,
        monitor: Monitor,
        progress: Progress,
        loggers: list[Logger],
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str,
        companions: Mapping[str, Companion] | None = None,
    ):
        self.system, self.dataset, self.config, self.folder = system, dataset, config, folder
        self.monitor, self.progress, self.loggers = monitor, progress, loggers
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.companions = {name: companion.dataset for name, companion in (companions or {}).items()}
        self.drawn = {
            name: (len(companion.dataset), max(1, round(companion.ratio * config.batch_size)))
            for name, companion in (companions or {}).items()
        }
        check_pieces(config, system.joins_batch, {"": config.batch_size, **{n: size for n, (_, size) in self.drawn.items()}})
        self.guard = OutlierGuard(config.outlier, device)
        self.steps = config.steps or 0
        self.step = 0
        # Since the last metrics line, sums by name and in how many steps each was there; part of a checkpoint.
        self.window: dict[str, dict[str, Any]] = {"sums": {}, "counts": {}}
        self.best: dict[str, float] = {}
        self.verdict = ""
        self.started = self.window_started = 0.0
        self.saved = -1
        self.checkpoint_every = config.checkpoint_every or max(1, math.ceil(self.steps / 10))

    @cached_property
    def forward(self) -> nn.Module:
        """The system's step on all ranks together. Made when it is first used: until then the system can be copied."""
        module = wrap(self.system, self.config.parallel)
        return torch.compile(module) if self.config.compile else module  # type: ignore[return-value]

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made after `forward`, which may cut the parameters into shards."""
        _ = self.forward
        return build_optimizer(self.system, self.config.optimizer, self.device)

    def train(self) -> Outcome:
        """Train from where the run stands to its end, an interrupt, or a collapse (where that is to end it)."""
        self.system.train()
        self.started = self.window_started = time.perf_counter()
        with (
            Signals(self.progress.say) as signals,
            memory_advice(self.config, self.system.joins_batch),
            self.progress,
            closing(self.batches()) as batches,
        ):
            if self.step == 0:
                if rank() > 0:  # the first goes on from the initialisation, as a single process does
                    self.seed_rank()
                self.watch()
            while not self.ended:
                self.log(self.optimise(next(batches)))
                if self.monitor.due(self.step, last=self.step == self.steps):
                    self.watch()
                stop = self.stop_asked(signals)
                if self.ended or stop or self.step % self.checkpoint_every == 0:
                    self.save()
                if stop and not self.ended:
                    return Outcome("interrupted", self.step, self.verdict, stop)
        return Outcome(self.ended, self.step, self.verdict)

    @property
    def ended(self) -> str:
        """ "collapsed" (where that is to end a run) or "finished"; empty while there is more to train."""
        if self.verdict in ("collapsed", "diverged") and self.monitor.config.stop_on_collapse:
            return "collapsed"
        return "finished" if self.step >= self.steps else ""

    def stop_asked(self, signals: Signals) -> int | None:
        """The signal that asked this rank to stop, or another one: all stop after the same step."""
        if world_size() > 1 and self.step % AGREE_EVERY:
            return None
        return largest_over_ranks(signals.received or 0) or None

    def batches(self, workers: int | None = None) -> Generator[Batch, None, None]:
        """This rank's collated batches of the steps that are left, in an order that depends on nothing but the seed.

        `workers`: another number than the config's. It never changes the batches.
        """
        sampler = StreamSampler(
            len(self.dataset), self.config.batch_size, self.steps, self.config.seed, self.step,
            shards=getattr(self.dataset, "shards", None), companions=self.drawn, rank=rank(), ranks=world_size(),
        )  # fmt: skip
        workers = (self.config.workers if workers is None else workers) or 0
        loader = DataLoader(
            DrawnDataset(self.dataset, self.companions),
            batch_sampler=sampler,
            collate_fn=self.system.collator(self.config.seed),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=outlive_signals if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: starting must not draw from the global one, which is checkpointed
        )
        try:
            yield from start_workers(loader)
        except (UserError, OSError) as error:
            raise data_fault(error, self.folder) from error

    def optimise(self, batch: Batch) -> dict[str, Any]:
        """One optimiser step; returns the loss terms (on the device, unread) and the schedules' values."""
        values: dict[str, Any] = set_schedule(self.optimizer, self.config, self.step, self.steps)
        batch = to_device(batch, self.device, self.dtype)
        pieces = split_batch(batch, self.config.accumulate)
        if len(pieces) > 1:  # each is a part of the whole, by whose counts its means are divided
            counts = map_tensors(global_count, self.system.counts(batch))
            pieces = [{**piece, "counts": counts} for piece in pieces]
        for number, piece in enumerate(pieces, start=1):
            with gradient_sync(self.forward, now=number == len(pieces)):
                with autocast(self.device, self.dtype):
                    terms = self.forward(piece)
                terms["loss"].backward()
            for name, term in terms.items():
                key = name if name == "loss" else f"loss/{name}"
                values[key] = values.get(key, 0.0) + term.detach()
        limit = math.inf if self.config.clip is None else self.config.clip
        values["grad_norm"] = full(torch.nn.utils.clip_grad_norm_(self.system.parameters(), limit))
        values["skipped"] = self.guard.judge(self.step, values["loss"], values["grad_norm"])
        self.guard.apply(self.optimizer, values["skipped"])
        self.optimizer.zero_grad(set_to_none=True)
        values |= self.system.after_step((self.step + 1) / self.steps)
        self.step += 1
        return values

    def log(self, values: dict[str, Any]) -> None:
        """Add a step's values to the window; every `log_every` steps write their means as a metrics line."""
        sums, counts = self.window["sums"], self.window["counts"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1  # a term may be left out of some steps
        if self.step % self.config.log_every and self.step != self.steps:
            return
        self.check_sound()
        count = counts["loss"]
        if skipped := round(float(sums.get("skipped", 0))):
            self.progress.say(
                f"step {self.step}: of the last {count} updates {skipped} left out, whose gradient norm was more than "
                f"{self.config.outlier:g} times the median of {self.guard.median:.3g}. Look at the data, if it goes on."
            )
        means = {name: float(total) / counts[name] for name, total in sums.items()}
        self.window = {"sums": {}, "counts": {}}
        now = time.perf_counter()
        step_s = (now - self.window_started) / count
        self.window_started = now
        line = {
            "kind": "train",
            "step": self.step,
            "epoch": self.step * self.config.batch_size / len(self.dataset),
            "progress": self.step / self.steps,
            **means,
            "time/step_s": step_s,
            "time/samples_per_s": self.config.batch_size / step_s,
            "time/elapsed_s": now - self.started,
        }
        self._write(line)
        self.progress.update(line, self.steps)

    def check_sound(self) -> None:
        """Stop a run that diverged since the last metrics line, before that is written or saved."""
        loss, gradient = (float(self.window["sums"].get(name, 0.0)) for name in ("loss", "grad_norm"))
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise self.diverged(
                f"The loss or its gradient is no longer a number at step {self.step} (or up to {self.config.log_every} before)"
            )
        if (row := self.guard.in_a_row) >= IN_A_ROW:
            raise self.diverged(
                f"The gradient norm stays more than {self.config.outlier:g} times above its median of {self.guard.median:.3g}: "
                f"the last {row} updates up to step {self.step} were left out"
            )

    def diverged(self, what: str) -> UserError:
        """The error that ends a diverged run, with what is left of it and what to change."""
        kept = self.folder.list_checkpoints()
        before = f"The last checkpoint, {kept[-1]}, is from before" if kept else "There is no checkpoint yet"
        return UserError(
            f"{what}: the run diverged. {before}. Start again with a lower lr (now {self.config.lr}), a longer warmup "
            f"or a lower clip (now {self.config.clip}); with bfloat16, try precision float32."
        )

    def watch(self) -> None:
        """Write a health line, and say it when the verdict changes."""
        start = time.perf_counter()
        values = of_main(self.monitor.measure(self.step, self.steps))  # all measure, one decides: rounding may differ
        spent = time.perf_counter() - start
        self.window_started += spent  # not the training's
        self._write({"kind": "health", "step": self.step, **values, "time/health_s": spent})
        verdict = values.get("health/verdict", self.verdict)
        self.progress.health(values, self.step, changed=verdict != self.verdict)
        self.verdict = verdict
        score = values.get(f"health/{self.config.keep_best}")
        if score is not None and self.step > 0 and score > self.best.get("score", -math.inf):
            self.best = {"score": score, "step": self.step}
            self.save()

    def save(self) -> None:
        """Write a checkpoint: weights, optimiser, random state, position, and what the metrics need to go on."""
        self.check_sound()
        if self.saved == self.step:
            return
        if largest_over_ranks(not all_finite(self.system, self.optimizer)):  # an update that overflowed: no loss has seen it
            raise self.diverged(f"The weights are no longer numbers after step {self.step}")
        state = {
            "step": self.step,
            "window": self.window,
            "health": self.monitor.state_dict(),
            "verdict": self.verdict,
            "best": self.best,
            "guard": self.guard.state_dict(),
            "fingerprint": self.fingerprint,
        }
        write_checkpoint(self.folder.checkpoint(self.step), self.system, self.optimizer, state)
        self.saved = self.step
        if is_main():
            best = self.best.get("step")
            self.folder.prune_checkpoints(self.config.keep_checkpoints, None if best is None else int(best))

    def restore(self) -> None:
        """Go back to the newest checkpoint (to the start if there is none); metrics written since are cut."""
        if is_main():
            self.folder.remove_unfinished()
        wait_for_all()
        kept = self.folder.list_checkpoints()
        if kept:
            state = restore_checkpoint(kept[-1], self.system, self.optimizer, self.fingerprint)
            lacking = {"step", "window", "best", "verdict", "health"} - state.keys()
            if lacking:
                raise UserError(f"{kept[-1]} lacks {', '.join(sorted(lacking))}. Delete it to resume from the one before.")
            self.step, self.window = state["step"], state["window"]
            self.best, self.verdict = state["best"], state["verdict"]
            self.monitor.load_state_dict(state["health"])
            if "guard" in state:  # not in a run that began before there was one
                self.guard.load_state_dict(state["guard"])
            if state["ranks"] != world_size():
                self.seed_rank()
        if is_main():
            self.folder.cut_metrics(self.step if kept else -1)
        wait_for_all()

    def seed_rank(self) -> None:
        """Give this rank random numbers of its own (dropout's)."""
        torch.manual_seed(derive_seed(self.config.seed, "rank", self.step, rank()))

    def _write(self, line: dict[str, Any]) -> None:
        if not is_main():
            return
        self.folder.append_metrics(line)
        for logger in self.loggers:
            logger.log(line)
