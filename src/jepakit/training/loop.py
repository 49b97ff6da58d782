"""The training loop: one class, read from `train` down."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from jepakit.core.system import Batch, System
from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig
from jepakit.training.cost import memory_advice
from jepakit.training.device import autocast, to_device
from jepakit.training.health import HealthMonitor, split_batch
from jepakit.training.loggers import Logger
from jepakit.training.optimizer import build_optimizer, set_schedule
from jepakit.training.order import DrawnDataset, StreamSampler
from jepakit.training.progress import Progress
from jepakit.training.run_folder import RunFolder
from jepakit.training.signals import Signals, outlive_signals, start_workers


@dataclass(frozen=True)
class Outcome:
    """How a training ended: "finished", "interrupted" or "collapsed", after how many steps, and the last verdict."""

    ended: str
    step: int
    verdict: str
    signal: int | None = None


class Trainer:
    """Trains a system and leaves metrics, checkpoints and weights in the run folder.

    Args:
        system: on its device.
        dataset: gives samples by index; picklable when `config.workers` is above 0.
        config: `steps` and `workers` decided.
        folder: created.
        monitor: measures the health.
        progress: what a person sees.
        loggers: where metrics go besides `metrics.jsonl`.
        device, dtype: where and in which autocast precision.
        fingerprint: of the data; a resumed run must have the same.
    """

    def __init__(
        self,
        system: System,
        dataset: Any,
        config: TrainingConfig,
        folder: RunFolder,
        monitor: HealthMonitor,
        progress: Progress,
        loggers: list[Logger],
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str,
    ):
        if config.accumulate > 1 and system.joins_batch:
            raise UserError(
                f"accumulate {config.accumulate}: this system's loss looks across the whole batch, and pieces of a "
                "batch would be another loss. Leave accumulate at 1 and lower batch_size instead."
            )
        self.system, self.dataset, self.config, self.folder = system, dataset, config, folder
        self.monitor, self.progress, self.loggers = monitor, progress, loggers
        self.device, self.dtype, self.fingerprint = device, dtype, fingerprint
        self.optimizer = build_optimizer(system, config, device)
        self.forward = torch.compile(system.step) if config.compile else system.step
        self.steps = config.steps or 0
        self.step = 0
        self.window: dict[str, Any] = {}  # sums since the last metrics line; part of a checkpoint
        self.best: dict[str, float] = {}
        self.verdict = ""
        self.started = self.window_started = 0.0
        self.checkpoint_every = config.checkpoint_every or max(1, math.ceil(self.steps / 10))

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
                self.watch()
            while not self.ended:
                self.log(self.optimise(next(batches)))
                if self.monitor.due(self.step, last=self.step == self.steps):
                    self.watch()
                if self.ended or signals.received or self.step % self.checkpoint_every == 0:
                    self.save()
                if signals.received and not self.ended:
                    return Outcome("interrupted", self.step, self.verdict, signals.received)
        return Outcome(self.ended, self.step, self.verdict)

    @property
    def ended(self) -> str:
        """ "collapsed" (where that is to end a run) or "finished"; empty while there is more to train."""
        if self.monitor.config.stop_on_collapse and self.verdict in ("collapsed", "diverged"):
            return "collapsed"
        return "finished" if self.step >= self.steps else ""

    def batches(self) -> Generator[Batch, None, None]:
        """Collated batches of the steps that are left, in an order that depends on nothing but the seed."""
        sampler = StreamSampler(len(self.dataset), self.config.batch_size, self.steps, self.config.seed, self.step)
        workers = self.config.workers or 0
        loader = DataLoader(
            DrawnDataset(self.dataset),
            batch_sampler=sampler,
            collate_fn=self.system.collator(self.config.seed),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=outlive_signals if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: starting must not draw from the global one, which is checkpointed
        )
        yield from start_workers(loader)

    def optimise(self, batch: Batch) -> dict[str, Any]:
        """One optimiser step; returns the loss terms (on the device, unread) and the schedules' values."""
        values: dict[str, Any] = set_schedule(self.optimizer, self.config, self.step, self.steps)
        pieces = split_batch(to_device(batch, self.device), self.config.batch_size // self.config.accumulate)
        weights = [self.system.weight(piece) for piece in pieces]
        for piece, weight in zip(pieces, weights, strict=True):
            share = weight / sum(weights)
            with autocast(self.device, self.dtype):
                terms = self.forward(piece)
            (terms["loss"] * share).backward()
            for name, term in terms.items():
                key = name if name == "loss" else f"loss/{name}"
                values[key] = values.get(key, 0.0) + term.detach() * share
        limit = math.inf if self.config.clip is None else self.config.clip
        values["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.system.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        values |= self.system.after_step((self.step + 1) / self.steps)
        self.step += 1
        return values

    def log(self, values: dict[str, Any]) -> None:
        """Add a step's values to the window; every `log_every` steps write their means as a metrics line."""
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0.0) + value
        self.window["steps"] = self.window.get("steps", 0) + 1
        if self.step % self.config.log_every and self.step != self.steps:
            return
        self.check_finite()
        count = self.window.pop("steps")
        means = {name: float(total) / count for name, total in self.window.items()}
        self.window = {}
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

    def check_finite(self) -> None:
        """Stop a run whose loss or gradient overflowed since the last metrics line, before that is written or saved."""
        loss, gradient = (float(self.window.get(name, 0.0)) for name in ("loss", "grad_norm"))
        if math.isfinite(loss) and math.isfinite(gradient):
            return
        kept = self.folder.list_checkpoints()
        before = f"The last checkpoint, {kept[-1]}, is from before" if kept else "There is no checkpoint yet"
        raise UserError(
            f"The loss or its gradient is no longer a number at step {self.step} (or up to {self.config.log_every} "
            f"before): the run diverged. {before}. Start again with a lower lr (now {self.config.lr}), a longer warmup "
            f"or a lower clip (now {self.config.clip}); with bfloat16, try precision float32."
        )

    def watch(self) -> None:
        """Write a health line, and say it when the verdict changes."""
        start = time.perf_counter()
        values = self.monitor.measure(self.step, self.steps)
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
        self.check_finite()
        state = {
            "step": self.step,
            "system": self.system.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.random.get_rng_state(),
            "window": self.window,
            "health": self.monitor.state_dict(),
            "verdict": self.verdict,
            "best": self.best,
            "fingerprint": self.fingerprint,
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        best = self.best.get("step")
        self.folder.save_checkpoint(self.step, state, self.config.keep_checkpoints, None if best is None else int(best))

    def restore(self) -> None:
        """Go back to the newest checkpoint (to the start if there is none); metrics written since are cut."""
        self.folder.remove_unfinished()
        state = self.folder.load_checkpoint(self.device)
        if state is None:
            self.folder.cut_metrics(-1)
            return
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                "The data changed since this run began (other files, labels or sizes): resuming would not continue the "
                "same run. Put the data back, or start a new one: "
                f"jepakit pretrain --config {self.folder.config} --out NEW."
            )
        try:
            self.system.load_state_dict(state["system"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The checkpoint does not fit {self.folder.config}: its options were changed since. Put them back; to "
                f"change a run, start a new one: jepakit pretrain --config {self.folder.config} --out NEW."
            ) from error
        torch.random.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        self.monitor.load_state_dict(state["health"])
        self.step, self.window = state["step"], state["window"]
        self.best, self.verdict = state["best"], state["verdict"]
        self.folder.cut_metrics(self.step)

    def _write(self, line: dict[str, Any]) -> None:
        self.folder.append_metrics(line)
        for logger in self.loggers:
            logger.log(line)
