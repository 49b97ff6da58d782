"""`pretrain` and `resume`: from data to a run folder with weights, metrics, numbers and a report."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from jepakit.config import OBJECT, RunConfig, default_config, read_config, write_config
from jepakit.core.system import System
from jepakit.device import available_cores, choose_device, choose_precision, keep_freed_memory
from jepakit.errors import UserError
from jepakit.files import write_atomic
from jepakit.interop.load import initialise, teacher_of
from jepakit.interop.runs import Run, build_system
from jepakit.interop.tuned import untuned
from jepakit.modalities.modality import Data, remarks
from jepakit.randomness import derive_seed
from jepakit.registry import DATASETS, is_tuned, load_system, verb_of
from jepakit.training.answers import Answers
from jepakit.training.cost import format_bytes, format_seconds, measure_cost, memory_advice
from jepakit.training.distributed import is_main, launched, leave, of_main, restarted, wait_for_all
from jepakit.training.faults import faults_explained
from jepakit.training.loggers import open_loggers
from jepakit.training.loop import Outcome, Trainer
from jepakit.training.optimizer import OptimizerConfig
from jepakit.training.progress import Progress
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.environment import add_wall_time, write_environment
from jepakit.verbs.evaluate import can_evaluate, evaluate
from jepakit.verbs.report import report
from jepakit.verbs.watching import monitor_of

FEWEST_SAMPLES = 16


@dataclass(frozen=True)
class Pretrained:
    """What `pretrain` and `resume` return: where the run is, how it ended, and the rows of its evaluation."""

    out: Path
    outcome: Outcome
    rows: list[Any]


def pretrain(
    system: str | None = None,
    *,
    data: Any = None,
    out: str | Path,
    config: str | Path | None = None,
    init: str | Path | None = None,
    **options: Any,
) -> Pretrained:
    """Pretrain a JEPA without labels, then (where there are labels) see what its embeddings are worth; write a report.

    Args:
        system: "i-jepa", "lejepa", ...; `jepakit list systems`. May be left out with `config`.
        data: what the system reads: a folder, a file, a built-in name (`jepakit list datasets`), or a data set object.
        out: the run folder to create.
        config: a run's `config.yaml`, reproduced; other options override it.
        init: weights to start from: a run folder or a folder of exported weights.
        options: any option of the data, the system, the training or the health monitor; parts take a dict,
            as in `masks={"targets": 3}`. `jepakit pretrain SYSTEM --help` lists them all.

    Errors: `UserError` for whatever is wrong with options, data or weights, before anything is trained.
    """
    source = None if data is None or isinstance(data, str | os.PathLike) else data
    if config is not None:
        chosen = read_config(config)
        if is_tuned(chosen.system):
            raise UserError(f"{config} is of a tuned run: reproduce it by jepakit finetune --config {config}.")
        if system not in (None, chosen.system):
            raise UserError(f"{config} is a run of {chosen.system!r}, not of {system!r}. Leave the system out.")
        if data is not None:
            options["data"] = OBJECT if source is not None else os.fspath(data)
    else:
        if system is None or data is None:
            raise UserError("pretrain needs a system and data: jepakit pretrain i-jepa --data ./photos --out runs/a")
        chosen = default_config(system, OBJECT if source is not None else os.fspath(data))
    return run_config(chosen.override(**options), Path(out), init=init, source=source)


def run_config(
    chosen: RunConfig, out: Path, init: str | Path | None = None, source: Any = None, teacher: Any = None
) -> Pretrained:
    """Train what a config describes, on all processes that torchrun started (or on this one).

    teacher: what `teacher_of` would find, where it is loaded already.
    """
    with launched(chosen.training.device) as device:
        return _start(chosen, RunFolder(out), device, init, source, teacher)


def _start(
    chosen: RunConfig, folder: RunFolder, device: torch.device, init: str | Path | None, source: Any, teacher: Any
) -> Pretrained:
    if restarted() and of_main(folder.config.exists()):  # one of its processes died, and torchrun gives the command again
        return resume(folder.path, source=source)
    folder.check_free()  # before the data is read: a typo should not cost minutes
    wait_for_all()
    data = open_data(chosen, source)
    decided = decide(chosen, data)
    teacher = teacher or teacher_of(decided, folder)
    if is_tuned(decided.system):  # it reads what its encoder read, and answers what the labels ask
        decided = dataclasses.replace(decided, model=decided.model.settled(Answers.of(data)), inputs=teacher.inputs)
    system = prepare_system(decided, device, teacher)
    licence = getattr(teacher, "licence", None)
    if init is not None:
        licence = initialise(system, init) or licence
    trainer = build_trainer(decided, folder, data, system, device)
    announce(trainer, decided, data)
    if is_main():
        folder.create()  # only now: a run that could not start leaves nothing behind
        write_environment(folder, decided, device, licence)
        if is_tuned(decided.system):
            untuned(teacher).save_pretrained(folder.encoder, predictor=decided.model.predictor == "kept")
        elif teacher is not None:
            teacher.save_pretrained(folder.path / teacher.option)  # the run must load when the teacher's own folder is gone
        write_atomic(folder.config, lambda path: write_config(path, decided))
    wait_for_all()
    with faults_explained(folder, decided.training), folder.held() if is_main() else nullcontext():
        return _train(trainer, folder, data)


def resume(run: str | Path, *, source: Any = None) -> Pretrained:
    """Continue an interrupted run from its newest checkpoint, to the same end as if it had not been interrupted.

    Args:
        run: the run folder. A finished one only gets its report again (and its evaluation, if that is missing).
        source: the data set object, where the run was given one.
    """
    folder = RunFolder(run)
    decided = read_config(folder.path)
    if decided.inputs is None:
        verb = verb_of(decided.system)
        raise UserError(f"{folder.config} was written by no run. Start one: jepakit {verb} --config {folder.config}")
    if decided.dataset.data == OBJECT and source is None:
        raise UserError(
            f"{folder.path} was trained on a data set object: jepakit.resume({str(run)!r}, source=DATASET) in Python."
        )
    with launched(decided.training.device) as device:
        return _continue(decided, folder, device, source)


def _continue(decided: RunConfig, folder: RunFolder, device: torch.device, source: Any) -> Pretrained:
    data = open_data(decided, source)
    system = prepare_system(decided, device, teacher_of(decided, folder))
    trainer = build_trainer(decided, folder, data, system, device)
    with faults_explained(folder, decided.training), folder.held() if is_main() else nullcontext():
        trainer.restore()
        where = f"step {trainer.step} of {trainer.steps}"
        if trainer.ended:
            trainer.progress.say(f"{folder.path} has {trainer.ended} at {where}: nothing is left to train.")
        else:
            trainer.progress.say(f"Resuming {folder.path} at {where}.")
        return _train(trainer, folder, data)


def open_data(config: RunConfig, source: Any = None) -> Data:
    """The data of a run, opened by the system's modality."""
    return load_system(config.system).modality.open(config.dataset, config.training.seed, source=source)


def decide(config: RunConfig, data: Data) -> RunConfig:
    """The config with everything left open (steps, workers, sizes) decided for this data."""
    training, count = config.training, len(data.train)
    if count < FEWEST_SAMPLES:
        files = data.noun == "clips" and data.kind in ("folder", "frames", "list")
        more = " Take several of each file: --clips." if files else ""
        raise UserError(f"{data.name} has {count} {data.noun} to train on; at least {FEWEST_SAMPLES} are needed.{more}")
    batch_size = min(training.batch_size, count - held_out_count(config, count))
    batch_size -= batch_size % training.accumulate
    if batch_size == 0:
        raise UserError(
            f"accumulate {training.accumulate}: the {count} {data.noun} of {data.name} cannot be cut into that many."
        )
    epochs = 100 if training.epochs is None else training.epochs
    steps = training.steps or math.ceil(epochs * (count - held_out_count(config, count)) / batch_size)
    if training.steps is None and training.epochs is None:
        steps = min(max(steps, 1000), 5000)
    workers = training.workers
    if workers is None:
        workers = 0 if data.train.paths is None else min(8, max(1, available_cores() - 1))
    kind = load_system(config.system)
    recipe = kind.training_defaults.get("optimizer", OptimizerConfig()).name
    if training.lr is None and training.optimizer.name != recipe:
        raise UserError(
            f"lr: the default of {config.system} is for {recipe}, and optimizer.name is {training.optimizer.name!r}. Give --lr."
        )
    found = {"data": _absolute(data.config.data)}
    if getattr(data.config, "labels", None):
        found["labels"] = _absolute(data.config.labels)
    for option in ("encoder", "lower"):
        if getattr(config.model, option, None):
            absolute = {option: _absolute(getattr(config.model, option))}
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, **absolute))
    return dataclasses.replace(
        config,
        dataset=dataclasses.replace(data.config, **found),
        training=dataclasses.replace(
            training,
            batch_size=batch_size,
            steps=steps,
            epochs=None,
            workers=workers,
            lr=kind.peak_lr(config.model) if training.lr is None else training.lr,
        ),
        inputs=kind.modality.inputs(data),
    )


def _absolute(place: str) -> str:
    """A path as it is found from any folder; a built-in name as it is."""
    if place in ("none", OBJECT, *DATASETS):
        return place
    scheme = "hf:" if place.startswith("hf:") else ""
    path = Path(place.removeprefix(scheme)).expanduser()
    return scheme + str(path.absolute()) if path.exists() or place.endswith(".tar") else place


def held_out_count(config: RunConfig, count: int) -> int:
    """Training samples set aside for the health monitor: a tenth at most; of a tuned run none, which is watched on its test
    part."""
    if is_tuned(config.system):
        return 0
    return min(config.health.health_samples, max(4, count // 10))


def prepare_system(config: RunConfig, device: torch.device, teacher: Any) -> System:
    """The system of a config at its random initialisation, which the seed decides."""
    torch.manual_seed(derive_seed(config.training.seed, "initialisation"))
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    system = build_system(config, teacher)
    system.begin_training()
    system = system.to(device)
    return system.double() if config.training.precision == "float64" else system


def build_trainer(
    config: RunConfig, folder: RunFolder, data: Data, system: System, device: torch.device
) -> Trainer:
    """The trainer of a run, with the samples that the health monitor looks at set aside."""
    training = config.training
    order = np.random.default_rng(derive_seed(training.seed, "held out")).permutation(len(data.train))
    held = held_out_count(config, len(order))
    training_set = data.train.subset(order[held:])
    held_out = [data.train[int(i)] for i in order[:held]]
    if device.type == "cpu":
        keep_freed_memory()
    return Trainer(
        system, training_set, training, folder,
        monitor=monitor_of(system, data, training_set, held_out, config, device),
        progress=Progress(training.steps or 0, Console(stderr=True, quiet=not is_main())),
        loggers=open_loggers(training.loggers, folder, config) if is_main() else [],
        device=device,
        dtype=choose_precision(training.precision, device),
        fingerprint=data.fingerprint,
        companions=data.companions,
    )  # fmt: skip


def announce(trainer: Trainer, config: RunConfig, data: Data) -> None:
    """Say what the run is and what it will cost, measured on its first batch."""
    system, training = trainer.system, config.training
    with memory_advice(training, system.joins_batch), closing(trainer.batches(workers=0)) as batches:
        cost = measure_cost(system, next(batches), training, trainer.device, trainer.dtype)
    for remark in remarks(data):
        trainer.progress.say(remark)
    trainer.progress.say(
        f"{config.system} on {data.name}: {len(data.train):,} {data.noun} of {config.inputs.describe()}, "
        f"{cost.trained / 1e6:.2f} M parameters trained of {cost.total / 1e6:.2f} M, {trainer.steps:,} steps of "
        f"{training.batch_size} on {trainer.device} in {str(trainer.dtype).removeprefix('torch.')}.\n"
        f"About {format_bytes(cost.memory)} of memory and {format_seconds(cost.step_seconds * trainer.steps)}."
    )


def _train(trainer: Trainer, folder: RunFolder, data: Data) -> Pretrained:
    """Train to the end (which may be reached already), then evaluate and report."""
    say, trained = trainer.progress.say, not trainer.ended
    started = time.perf_counter()
    outcome = trainer.train()
    for logger in trainer.loggers:
        logger.close()
    if trained and is_main():
        add_wall_time(folder, time.perf_counter() - started)
    if outcome.ended == "interrupted":
        say(f"Saved at step {outcome.step}. Continue with: jepakit resume {shlex.quote(str(folder.path))}")
        return Pretrained(folder.path, outcome, [])
    if trained or not folder.model.exists():
        trainer.system.end_training()
        folder.save_model(trainer.system)
    if outcome.ended == "collapsed":
        say(f"Ended at step {outcome.step}: {outcome.verdict}. The last checkpoint is in {folder.checkpoints}.")
    rows: list[Any] = []
    leave()  # the evaluation is rank 0's alone
    if is_main():
        evaluators = () if trainer.system.answers is not None else None  # of a tuned model its answers count
        run = Run(folder.path, choose_device("auto"), data)  # opened once, for both
        wanted = (trained or not folder.evaluation.exists()) and can_evaluate(run, evaluators)
        rows = evaluate(run, evaluators=evaluators) if wanted else []
        say(f"Report: {report(run)}")
    return Pretrained(folder.path, outcome, rows)
