"""The health monitor: whether a run learns or collapses, measured while it happens on samples it is not trained on.

Collapse (all embeddings alike, or few directions left) and fragmentation (a matching pair is no closer than a random
one) are different sicknesses; a falling loss shows neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jepakit.core.anticollapse import SIGReg, SIGRegConfig, draw_directions, epps_pulley
from jepakit.core.batch import batch_size, split_batch
from jepakit.core.system import System, shuffled
from jepakit.device import choose_precision, to_device
from jepakit.evaluation.knn import KNNConfig, knn_scores
from jepakit.evaluation.labels import read_targets
from jepakit.evaluation.metrics import metrics_for
from jepakit.evaluation.rank import alpha_req, lidar, mean_cosine, normalised_std, rankme
from jepakit.training.config import HealthConfig, TrainingConfig

ENERGY_SAMPLES = 64
KNN_BANK = 512
NEIGHBOURS = 10
PIECE = 256  # samples encoded at once
FEWEST = 32  # images set aside below which a verdict would be chance
SHARE = 0.007  # of the training, for each of the three groups of measures: measured, 1.7 to 2.3 % of the time together


@runtime_checkable
class Monitor(Protocol):
    """What looks at a system now and then, as the `HealthMonitor` does."""

    config: Any  # where a verdict is "collapsed" or "diverged", its `stop_on_collapse` is asked

    def due(self, step: int, last: bool) -> bool: ...

    def measure(self, step: int, steps: int) -> dict[str, Any]: ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Cadence:
    """Steps between measurements of the geometry (rank, std, energy), of LiDAR, and of the online kNN."""

    geometry: int
    lidar: int
    knn: int

    @staticmethod
    def plan(config: HealthConfig, training: TrainingConfig, samples: int, bank: int = KNN_BANK) -> Cadence:
        """As often as each group costs `SHARE` of the training, counted in encoder passes (not in seconds: a resumed
        run must measure at the same steps). A training step is about 4 passes a sample, an energy 6. samples, bank: how
        many are set aside and how many the kNN looks through."""
        if config.health_every is not None:
            return Cadence(config.health_every, config.health_every, config.health_every)
        step = 4 * training.batch_size * SHARE
        return Cadence(
            geometry=math.ceil((samples + 6 * min(samples, ENERGY_SAMPLES)) / step),
            lidar=math.ceil(samples * config.lidar_views / step),
            knn=math.ceil((bank + samples) / step),
        )


class HealthMonitor:
    """Measures a system on fixed held-out samples and says in words what it sees.

    Args:
        system: its `encode`, `views`, `energy` and `collator` are used.
        held_out: samples that are not trained on.
        bank: labelled training samples for the online kNN; empty where there are no labels. task: of the labels.
    """

    def __init__(
        self,
        system: System,
        held_out: Sequence[dict[str, Any]],
        bank: Sequence[dict[str, Any]],
        task: str | None,
        config: HealthConfig,
        training: TrainingConfig,
        device: torch.device,
    ):
        self.system, self.config, self.device = system, config, device
        self.dtype = choose_precision(training.precision, device)
        self.cadence = Cadence.plan(config, training, len(held_out), len(bank))
        self.held_out = self._prepare(held_out)
        self.pairs = system.collator(training.seed, views=2)(held_out[:ENERGY_SAMPLES])
        self.views = system.collator(training.seed + 1, views=config.lidar_views)(held_out)
        self.bank = self._prepare(bank)
        if bank:
            known, asked = (np.asarray([sample["label"] for sample in part]) for part in (bank, held_out))
            # A rare class may be missing from the bank; its samples cannot be found and are not asked for.
            self.asked = np.isin(asked, known) if task == "classification" else np.ones(len(asked), dtype=bool)
            self.targets = read_targets(known, asked[self.asked], task)
        self.reference: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        """What the verdict compares with: the measures before training."""
        return dict(self.reference)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.reference = dict(state)

    def due(self, step: int, last: bool) -> bool:
        """Whether anything is to be measured after `step` optimiser steps."""
        return last or any(step % every == 0 for every in (self.cadence.geometry, self.cadence.lidar, self.cadence.knn))

    @torch.no_grad()
    def measure(self, step: int, steps: int) -> dict[str, Any]:
        """One health line: what is due at `step`, and the verdict where the geometry is."""
        was_training = self.system.training
        self.system.eval()
        everything = step in (0, steps)
        values: dict[str, Any] = {}
        embeddings = self._encode(self.held_out)
        if not torch.isfinite(embeddings).all():
            values |= {"verdict": "diverged", "message": "The embeddings hold NaN: lower lr, or lengthen warmup."}
        else:
            if everything or step % self.cadence.geometry == 0:
                values |= self._geometry(embeddings)
            if everything or step % self.cadence.lidar == 0:
                values |= self._lidar()
            if self.bank and (everything or step % self.cadence.knn == 0):
                values["knn"] = self._knn(embeddings, self._encode(self.bank))
            if "rankme" in values:
                if step == 0:
                    self.reference = {name: v for name, v in values.items() if isinstance(v, float)}
                if len(embeddings) < FEWEST:
                    verdict, message = "unknown", f"only {len(embeddings)} samples could be set aside, too few to judge by"
                else:
                    verdict, message = judge(values, self.reference, step, steps, min(embeddings.shape))
                values |= {"verdict": verdict, "message": message}
        self.system.train(was_training)
        return {f"health/{name}": value for name, value in values.items()}

    def _prepare(self, samples: Sequence[dict[str, Any]]) -> list[Any]:
        """The encoder's inputs, in pieces that fit beside a training step."""
        return [self.system.inputs.prepare(samples[i : i + PIECE]) for i in range(0, len(samples), PIECE)]

    def _encode(self, pieces: list[Any]) -> Tensor:
        moved = (to_device(piece, self.device, self.dtype) for piece in pieces)
        return torch.cat([self.system.encode(piece).mean().float().cpu() for piece in moved])

    def _geometry(self, z: Tensor) -> dict[str, float | None]:
        batch = to_device(self.pairs, self.device, self.dtype)
        count = len(batch["id"])
        matching = self.system.energy(batch, torch.arange(count, device=self.device)).float()
        random = self.system.energy(batch, shuffled(count, self.device)).float()
        alpha = alpha_req(z).alpha
        return {
            "rankme": rankme(z, centre=True),
            "alpha_req": alpha if math.isfinite(alpha) else None,  # None: fewer than three directions are left
            "std": normalised_std(z),
            "cosine": mean_cosine(z),
            "sigreg": gaussianity(z),
            "spread": float(z.std(0).mean()),
            "energy_matching": float(matching.mean()),
            "energy_shuffled": float(random.mean()),
            "energy_margin": float((random.mean() - matching.mean()) / random.mean().clamp_min(1e-12)),
            "pairs_below": float((matching < random).float().mean()),
        }

    def _lidar(self) -> dict[str, Any]:
        pieces = split_batch(self.views, math.ceil(batch_size(self.views) / 64))
        parts = [self.system.views(to_device(part, self.device, self.dtype)).float().cpu() for part in pieces]
        result = lidar(torch.cat(parts))
        return {"lidar": result.value, "lidar_n": result.n, "lidar_q": result.q, "lidar_noise": result.noise}

    def _knn(self, embeddings: Tensor, bank: Tensor) -> float:
        config = KNNConfig(k=min(NEIGHBOURS, len(bank)))
        queries = embeddings[torch.from_numpy(self.asked)]
        scores = knn_scores(bank, self.targets.train, queries, self.targets.task, config)
        return metrics_for(self.targets)[0](scores, self.targets.test)


def gaussianity(z: Tensor) -> float:
    """SIGReg's statistic of centred embeddings scaled to unit mean variance: up to 1.05 is Gaussian in every direction."""
    z = z - z.mean(0)
    z = z / z.square().mean().sqrt().clamp_min(1e-12)
    directions = draw_directions(z.shape[1], 256, 0, 0)
    return float(epps_pulley(z @ directions).mean() * len(z))


SIGREG_FLOOR = SIGReg(SIGRegConfig()).floor


def judge(
    now: dict[str, Any], before: dict[str, float], step: int, steps: int, rank_limit: int
) -> tuple[str, str]:
    """Verdict and its reason in plain words, from a health line and the one before training.

    A random encoder's embeddings are all rather alike, so most signs count only where they got worse by training.
    """
    if step == 0:
        return "start", "before training"
    advice = "Try an anti-collapse loss or more of it (anti_collapse, its weight), a lower lr, or a larger batch."
    energy_left, rank_left = now["energy_shuffled"] / before["energy_shuffled"], now["rankme"] / before["rankme"]
    if energy_left < 0.2 and rank_left < 0.5:
        return "collapsed", (
            f"Random pairs have become as alike as matching ones (their energy fell to {energy_left:.0%} of the start's) and "
            f"the rank fell from {before['rankme']:.0f} to {now['rankme']:.0f}: the loss is low because there is nothing left "
            f"to tell apart. {advice}"
        )
    if now["spread"] < 0.02 * before["spread"]:
        return "collapsed", (
            f"All embeddings shrink to one point (spread {now['spread']:.2g}, {before['spread']:.2g} at the start). {advice}"
        )
    if now["rankme"] < 0.05 * rank_limit:
        return "collapsed", f"The embeddings use {now['rankme']:.1f} of {rank_limit} directions. {advice}"
    alike = ""
    if now["std"] < 0.1 and now["std"] < 0.5 * before["std"]:
        alike = f"All embeddings point the same way (std {now['std']:.2f}, 1 is spread)"
    elif now["cosine"] > 0.95 and 1 - now["cosine"] < 0.5 * (1 - before["cosine"]):
        alike = f"Two random samples have a cosine of {now['cosine']:.3f}"
    if alike and now["pairs_below"] >= 0.9 and now["energy_margin"] >= 0.25:  # a common direction, and much beside it
        return "warning", (
            f"{alike}, but {now['pairs_below']:.0%} of pairs are told apart, by {now['energy_margin']:.0%} of their energy: a "
            "direction common to all grows. Watch the probes."
        )
    if alike:
        return "collapsed", f"{alike}. {advice}"
    if step >= 0.1 * steps and now["pairs_below"] < 0.55:
        return "fragmented", (
            f"A matching pair has a lower energy than a random one in only {now['pairs_below']:.0%} of cases: the "
            "prediction ignores the context. Make the question easier (smaller masks, weaker views), or try a deeper predictor "
            "or a higher lr."
        )
    if rank_left < 0.5:
        return "warning", (
            f"The rank fell to {now['rankme']:.1f} from {before['rankme']:.1f} before training: directions are being lost."
        )
    return "healthy", f"rank {now['rankme']:.0f} of {rank_limit}, {now['pairs_below']:.0%} of pairs told apart"
