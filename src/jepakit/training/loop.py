"""The training loop: one class, read from `train` down."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from jepakit.core.system import Batch, System
from jepakit.errors import UserError
from jepakit.training.config import TrainingConfig
from jepakit.training.cost import out_of_memory_advice
from jepakit.training.device import autocast, to_device
from jepakit.training.health import HealthMonitor, split_batch
from jepakit.training.loggers import Logger
from jepakit.training.optimizer import build_optimizer, set_schedule
from jepakit.training.order import DrawnDataset, StreamSampler
from jepakit.training.progress import Progress
from jepakit.training.run_folder import RunFolder


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
                f"accumulate {config.accumulate}: this system's loss looks across the whole batch, and pieces of a batch "
                "would be another loss. Leave accumulate at 1 and lower batch_size instead."
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
        self.signal: int | None = None
        self.started, self.window_started = time.perf_counter(), time.perf_counter()
        self.checkpoint_every = config.checkpoint_every or max(1, math.ceil(self.steps / 10))

    def train(self) -> Outcome:
        """Train from where the run stands to its end, an interrupt, or a collapse (where that is to end it)."""
        self.system.train()
        previous = self._catch_signals()
        try:
            if self.step == 0:
                self.watch()
            for batch in self.batches():
                self.log(self.optimise(batch))
                last = self.step == self.steps
                if self.monitor.due(self.step, last):
                    self.watch()
                collapsed = self.monitor.config.stop_on_collapse and self.verdict in ("collapsed", "diverged")
                if last or collapsed or self.signal or self.step % self.checkpoint_every == 0:
                    self.save()
                if collapsed or self.signal:
                    return Outcome("collapsed" if collapsed else "interrupted", self.step, self.verdict, self.signal)
            return Outcome("finished", self.step, self.verdict)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(out_of_memory_advice(self.config, self.system.joins_batch)) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # how torch's CPU allocator says it
                raise UserError(out_of_memory_advice(self.config, self.system.joins_batch)) from error
            raise
        finally:
            self.progress.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def batches(self) -> Iterator[Batch]:
        """Collated batches of the steps that are left, in an order that depends on nothing but the seed."""
        sampler = StreamSampler(len(self.dataset), self.config.batch_size, self.steps, self.config.seed, self.step)
        workers = self.config.workers or 0
        loader = DataLoader(
            DrawnDataset(self.dataset),
            batch_sampler=sampler,
            collate_fn=self.system.collator(self.config.seed),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        yield from loader

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
        if not math.isfinite(means["loss"]) or not math.isfinite(means["grad_norm"]):
            raise UserError(
                f"The loss or its gradient became {means['loss']} at about step {self.step}: the run diverged. The last "
                f"checkpoint in {self.folder.checkpoints} is from before. Lower lr (now {self.config.lr}), lengthen warmup, "
                "or set clip; with bfloat16, try precision float32."
            )
        self._write(line)
        self.progress.update(line, self.steps)

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
        state = self.folder.load_checkpoint(self.device)
        if state is None:
            self.folder.cut_metrics(-1)
            return
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                "The data changed since this run began (other files, labels or sizes): resuming would not continue the same "
                "run. Put the data back, or start a new run from these weights with --init."
            )
        self.system.load_state_dict(state["system"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.random.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        self.monitor.load_state_dict(state["health"])
        self.step, self.window, self.best, self.verdict = state["step"], state["window"], state["best"], state["verdict"]
        self.folder.cut_metrics(self.step)

    def _write(self, line: dict[str, Any]) -> None:
        self.folder.append_metrics(line)
        for logger in self.loggers:
            logger.log(line)

    def _catch_signals(self) -> dict[int, Any]:
        def remember(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:  # the second time the person means it
                raise KeyboardInterrupt
            self.signal = number
            self.progress.say("Finishing this step and saving (once more to stop at once) ...")

        try:
            return {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever owns it handles signals
            return {}
