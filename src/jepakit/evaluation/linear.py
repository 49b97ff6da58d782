"""Linear probes: multinomial (or one-against-rest) logistic regression, ridge for regression, and low-shot draws.

Protocol: features standardised with the statistics of the training part; the strength of the L2 penalty chosen on the
training part alone; the chosen fit then uses all training labels. Nothing sees the test part before the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from jepakit.evaluation.labels import Targets, folds_of, held_out, low_shot_draws

# Penalty per sample and weight: mean loss + strength / 2 ‖W‖². scikit-learn's C is 1 / (strength × samples).
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RIDGE_STRENGTHS = tuple(10.0**power for power in range(3, -8, -1))
SELECTION_ROWS = 10_000  # samples at most for choosing the strength; the final fit uses all
SELECTION_FOLDS = 5  # below FOLDS_UNTIL samples; one held-out fifth above
FOLDS_UNTIL = 2_000
LOW_SHOT_DRAWS = 5
Link = Literal["softmax", "sigmoid"]


def standardise(train: Float[Tensor, "n dim"], *others: Float[Tensor, "_ dim"]) -> list[Tensor]:
    """All parts on the training part's scale: mean 0 and std 1 there. Dimensions constant in training become 0."""
    mean, std = train.double().mean(dim=0), train.double().std(dim=0, correction=0)
    alive = std > 1e-6 * (std.amax() + mean.abs())
    scale = torch.where(alive, 1 / torch.where(alive, std, 1.0), 0.0)
    return [((part - mean.to(part)) * scale.to(part)) for part in (train, *others)]


@dataclass(frozen=True)
class Linear:
    """`scores = x @ weight + bias`, `[n, outputs]`, with the penalty it was fitted under."""

    weight: Float[Tensor, "dim outputs"]
    bias: Float[Tensor, "outputs"]
    strength: float

    def __call__(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n outputs"]:
        return torch.addmm(self.bias, x, self.weight)


def fit_logistic(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "n outputs"],
    strength: float,
    *,
    link: Link = "softmax",
    start: Linear | None = None,
    tolerance: float = 1e-4,
    iterations: int = 300,
) -> Linear:
    """Minimise mean cross-entropy + strength / 2 ‖weight‖² (the bias is free) by L-BFGS.

    "softmax": one distribution over the outputs (`y` rows sum to 1); "sigmoid": an independent yes or no for each.
    `tolerance` bounds the largest component of the gradient at the end.
    """
    n, dim = x.shape
    outputs = y.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(x).view(dim + 1, outputs)
        weight, bias = parameters[:-1], parameters[-1]
        logits = torch.addmm(bias, x, weight)
        if link == "softmax":
            loss = torch.logsumexp(logits, dim=1) - (logits * y).sum(dim=1)
            residual = torch.softmax(logits, dim=1) - y
        else:
            loss = (F.softplus(logits) - logits * y).sum(dim=1)
            residual = torch.sigmoid(logits) - y
        gradient = torch.cat([torch.addmm(weight, x.T, residual, beta=strength, alpha=1 / n), residual.mean(dim=0)[None]])
        value = loss.double().mean() + strength / 2 * weight.double().square().sum()
        return float(value), gradient.double().cpu().numpy().ravel()

    first = np.zeros((dim + 1, outputs))
    if start is not None:
        first = torch.cat([start.weight, start.bias[None]]).double().cpu().numpy()
    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 1e-10, "maxcor": 10}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    solution = torch.from_numpy(found.x).to(x).view(dim + 1, outputs)
    return Linear(solution[:-1], solution[-1], strength)


def logistic_path(x: Tensor, y: Tensor, link: Link, strengths: Sequence[float] = STRENGTHS) -> Iterable[Linear]:
    """Fits from the strongest penalty to the weakest, each from the one before: each step is short."""
    fit = None
    for strength in strengths:
        fit = fit_logistic(x, y, strength, link=link, start=fit)
        yield fit


def choose_strength(x: Tensor, y: Tensor, strata: np.ndarray, link: Link, *, folds: int, seed: int) -> float:
    """The strength with the least held-out cross-entropy, by cross-validation (`folds` > 1) or one held-out fifth."""
    assigned = folds_of(strata, folds, seed) if folds > 1 else np.where(held_out(strata, 0.2, seed), 0, 1)
    losses = np.zeros(len(STRENGTHS))
    for fold in range(folds):
        held = torch.from_numpy(assigned == fold).to(x.device)
        path, best = [], np.inf
        for fit in logistic_path(x[~held], y[~held], link):
            path.append(_cross_entropy(fit(x[held]), y[held], link))
            best = min(best, path[-1])
            if path[-1] > 1.2 * best:  # weaker penalties, the costly fits, only get worse from here
                break
        losses += path + [np.inf] * (len(STRENGTHS) - len(path))
    return STRENGTHS[int(np.argmin(losses))]


def _cross_entropy(logits: Tensor, y: Tensor, link: Link) -> float:
    if link == "softmax":
        return float(F.cross_entropy(logits, y))
    return float(F.binary_cross_entropy_with_logits(logits, y))


def _row_space(x: Float[Tensor, "n dim"]) -> tuple[Tensor, Tensor]:
    """Coordinates of the rows in an orthonormal basis of their span, and the basis `[dim, rank]`.

    With an L2 penalty the best weights lie in that span, so that a fit on few samples costs n, not dim, and is exact.
    """
    basis, coordinates = torch.linalg.qr(x.T)
    return coordinates.T.contiguous(), basis


def fit_classifier(x: Tensor, y: Tensor, strata: np.ndarray, link: Link, *, folds: int, seed: int) -> Linear:
    """Choose the strength, then fit on all of `x`. `folds` 0: no choice, strength 1 / n (scikit-learn's C = 1)."""
    narrow = 2 * x.shape[0] <= x.shape[1] and x.shape[0] <= SELECTION_ROWS // 4
    inner, basis = _row_space(x) if narrow else (x, None)
    strength = 1 / len(x)
    if folds:
        rows = np.arange(len(x))
        if len(x) > SELECTION_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(len(x), SELECTION_ROWS, replace=False))
        picked = torch.from_numpy(rows).to(x.device)
        strength = choose_strength(inner[picked], y[picked], strata[rows], link, folds=folds, seed=seed)
    fit = fit_logistic(inner, y, strength, link=link)
    return fit if basis is None else Linear(basis @ fit.weight, fit.bias, strength)


def fit_ridge(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n"], strengths: Sequence[float] = RIDGE_STRENGTHS
) -> Linear:
    """Ridge regression in closed form; the strength (penalty / n) with the least exact leave-one-out error.

    Minimises mean squared error + strength ‖weight‖², the bias is free.
    """
    n = len(x)
    x_mean, y_mean = x.mean(dim=0), y.mean()
    centred, target = (x - x_mean).double(), (y - y_mean).double()
    u, s, vt = torch.linalg.svd(centred, full_matrices=False)
    projected = u.T @ target
    best: tuple[float, float] = (np.inf, strengths[0])
    for strength in strengths:
        shrink = s**2 / (s**2 + n * strength)
        leverage = 1 / n + u.square() @ shrink
        error = (target - u @ (shrink * projected)) / (1 - leverage).clamp_min(1e-6)
        best = min(best, (float(error.square().mean()), strength))
    strength = best[1]
    weight = (vt.T @ (s / (s**2 + n * strength) * projected)).to(x)
    return Linear(weight[:, None], (y_mean - x_mean @ weight)[None], strength)


def linear_probe(train: Tensor, test: Tensor, targets: Targets, seed: int = 0) -> tuple[np.ndarray, dict]:
    """Scores of the test samples from a linear probe on all training labels, and what was chosen."""
    x, x_test = _solver_precision(*standardise(train, test))
    if targets.task == "regression":
        fit = fit_ridge(x, torch.as_tensor(targets.train).to(x))
        return fit(x_test)[:, 0].double().cpu().numpy(), {"strength": fit.strength}
    link: Link = "softmax" if targets.task == "classification" else "sigmoid"
    folds = SELECTION_FOLDS if len(x) < FOLDS_UNTIL else 1
    fit = fit_classifier(x, _one_hot(targets, x), targets.strata, link, folds=folds, seed=seed)
    return fit(x_test).double().cpu().numpy(), {"strength": fit.strength}


def low_shot_probe(
    train: Tensor, test: Tensor, targets: Targets, shots: int, *, draws: int = LOW_SHOT_DRAWS, seed: int = 0
) -> tuple[list[np.ndarray], dict]:
    """Scores of the test samples for each of several draws of `shots` labels a class.

    Standardised with the whole training part (its labels are not used); the strength is chosen anew in each draw by
    cross-validation over its own labelled samples (one label a class: scikit-learn's default, C = 1).
    """
    x, x_test = _solver_precision(*standardise(train, test))
    y = _one_hot(targets, x)
    scores, strengths = [], []
    for chosen in low_shot_draws(targets.train, shots, draws, seed):
        picked = torch.from_numpy(chosen).to(x.device)
        folds = min(SELECTION_FOLDS, shots) if shots > 1 else 0
        fit = fit_classifier(x[picked], y[picked], targets.train[chosen], "softmax", folds=folds, seed=seed)
        scores.append(fit(x_test).double().cpu().numpy())
        strengths.append(fit.strength)
    return scores, {"strengths": strengths}


def _one_hot(targets: Targets, like: Tensor) -> Float[Tensor, "n outputs"]:
    labels = torch.as_tensor(targets.train)
    return (F.one_hot(labels, len(targets.classes)) if targets.task == "classification" else labels).to(like)


def _solver_precision(*parts: Tensor) -> list[Tensor]:
    """float64 while it is cheap (up to 16 M numbers), float32 beyond."""
    return [part.double() if parts[0].numel() <= 2**24 else part.float() for part in parts]
