"""Linear probes: multinomial (or one-against-rest) logistic regression, ridge for regression, and low-shot draws.

Protocol: features standardised with the statistics of the training part; the strength of the L2 penalty chosen on the
training part alone; the chosen fit then uses all training labels. Nothing sees the test part before the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from jepakit.evaluation.labels import Targets, folds_of, low_shot_draws
from jepakit.randomness import derive_seed

# Penalty per sample and weight: mean loss + strength / 2 ‖W‖². scikit-learn's C is 1 / (strength × samples).
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RIDGE_STRENGTHS = tuple(10.0**power for power in range(3, -8, -1))
SELECTION_ROWS = 10_000  # samples at most for choosing the strength; the final fit uses all
SELECTION_FOLDS = 5
FOLDS_UNTIL = 2_000
FINAL_ITERATIONS = 100  # reached only by large, badly conditioned problems, whose accuracy no longer moves then
PRECONDITION_ROWS, PRECONDITION_DIM = 10_000, 2_048  # its cost grows with rows × dim² + dim³
ROW_SPACE = 2_500  # fits on at most so many samples, and at most half as many as dimensions, run in their row space
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
    tolerance: float = 1e-5,
    iterations: int = 300,
) -> Linear:
    """Minimise mean cross-entropy + strength / 2 ‖weight‖² (the bias is free) by L-BFGS.

    "softmax": one distribution over the outputs (`y` rows sum to 1); "sigmoid": an independent yes or no for each.
    `tolerance` bounds the largest component of the preconditioned gradient at the end.
    """
    n, dim = x.shape
    outputs = y.shape[1]
    turn = _preconditioner(x, strength) if dim <= PRECONDITION_DIM else None
    origin = x.new_zeros(dim + 1, outputs) if start is None else torch.cat([start.weight, start.bias[None]])

    def parameters(steps: np.ndarray) -> Tensor:
        moved = torch.from_numpy(steps).to(x).view(dim + 1, outputs)
        return origin + (moved if turn is None else torch.cat([turn @ moved[:-1], moved[-1:]]))

    def objective(steps: np.ndarray) -> tuple[float, np.ndarray]:
        current = parameters(steps)
        weight, bias = current[:-1], current[-1]
        logits = torch.addmm(bias, x, weight)
        if link == "softmax":
            loss = torch.logsumexp(logits, dim=1) - (logits * y).sum(dim=1)
            residual = torch.softmax(logits, dim=1) - y
        else:
            loss = (F.softplus(logits) - logits * y).sum(dim=1)
            residual = torch.sigmoid(logits) - y
        slope = torch.addmm(weight, x.T, residual, beta=strength, alpha=1 / n)
        slope = slope if turn is None else turn @ slope
        value = loss.double().mean() + strength / 2 * weight.double().square().sum()
        return float(value), torch.cat([slope, residual.mean(dim=0)[None]]).double().cpu().numpy().ravel()

    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 1e-10}
    found = minimize(objective, np.zeros(origin.numel()), jac=True, method="L-BFGS-B", options=options)
    solution = parameters(found.x)
    return Linear(solution[:-1], solution[-1], strength)


def _preconditioner(x: Float[Tensor, "n dim"], strength: float) -> Float[Tensor, "dim dim"]:
    """Inverse square root of an upper bound of the curvature.

    The solver walks in weights seen through it: the minimum is the same, correlated features slow it down far less.
    """
    rows = x[:: max(1, len(x) // PRECONDITION_ROWS)]
    values, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    return axes * (values.clamp_min(0) / 4 + strength).rsqrt() @ axes.T


def choose_strength(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n outputs"], strata: np.ndarray, link: Link, seed: int
) -> float:
    """The strength with the least held-out cross-entropy, for a fit on all of `x`.

    Cross-validation below `FOLDS_UNTIL` samples, one held-out fifth above; of more than `SELECTION_ROWS` samples a
    random part is used. What is chosen is strength × samples (1 / C), so it is scaled from the part to the whole.
    """
    rows = np.arange(len(x))
    if len(x) > SELECTION_ROWS:
        rows = np.random.default_rng(derive_seed(seed, "selection")).choice(len(x), SELECTION_ROWS, replace=False)
    folds = SELECTION_FOLDS if len(rows) < FOLDS_UNTIL else 1
    assigned = folds_of(strata[rows], SELECTION_FOLDS, seed)
    losses = np.zeros(len(STRENGTHS))
    for fold in range(folds):
        fit_rows, check = (torch.from_numpy(rows[where]).to(x.device) for where in (assigned != fold, assigned == fold))
        fit, best = None, math.inf
        for i, strength in enumerate(STRENGTHS):  # from strong to weak, each from the one before: short steps
            fit = fit_logistic(x[fit_rows], y[fit_rows], strength, link=link, start=fit, tolerance=1e-3)
            loss = _cross_entropy(fit(x[check]), y[check], link)
            losses[i] += loss
            best = min(best, loss)
            if loss > 1.1 * best:  # the weaker penalties, which cost most, only get worse from here
                losses[i + 1 :] = math.inf
                break
    return STRENGTHS[int(np.argmin(losses))] * len(rows) * (1 - 1 / SELECTION_FOLDS) / len(x)


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


def fit_classifier(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "n outputs"],
    link: Link,
    choose: Callable[[Tensor], float],
) -> Linear:
    """Fit on all of `x` with the strength that `choose` finds (it is given `x` in the coordinates of the fit)."""
    with _threads_for(x):
        if len(x) > min(x.shape[1] // 2, ROW_SPACE):
            return fit_logistic(x, y, choose(x), link=link, iterations=FINAL_ITERATIONS)
        inner, basis = _row_space(x)
        fit = fit_logistic(inner, y, choose(inner), link=link, iterations=FINAL_ITERATIONS)
        return Linear(basis @ fit.weight, fit.bias, fit.strength)


@contextmanager
def _threads_for(x: Tensor) -> Iterator[None]:
    """One thread for small problems: thousands of tiny products gain nothing from more, and on a busy machine each
    waits for the slowest thread (measured: up to a hundred times slower). Torch and the solver's BLAS alike."""
    threads = torch.get_num_threads()
    if x.numel() >= 2**22:
        yield
        return
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def fit_ridge(x: Float[Tensor, "n dim"], y: Float[Tensor, "n"], strengths: Sequence[float] = RIDGE_STRENGTHS) -> Linear:
    """Ridge regression in closed form; the strength with the least exact leave-one-out error.

    Minimises mean squared error + strength ‖weight‖²; the bias is free.
    """
    n = len(x)
    x_mean, y_mean = x.double().mean(dim=0), y.double().mean()
    inner, target = x.double() - x_mean, y.double() - y_mean
    basis = None
    if n < x.shape[1]:
        inner, basis = _row_space(inner)
    values, axes = torch.linalg.eigh(inner.T @ inner)
    values, turned = values.clamp_min(0), inner @ axes
    best, chosen = math.inf, strengths[0]
    for strength in strengths:
        shrink = 1 / (values + n * strength)
        leverage = 1 / n + turned.square() @ shrink
        left_out = (target - turned @ (shrink * (turned.T @ target))) / (1 - leverage).clamp_min(1e-9)
        error = float(left_out.square().mean())
        if error < best:
            best, chosen = error, strength
    weight = axes @ ((turned.T @ target) / (values + n * chosen))
    weight = weight if basis is None else basis @ weight
    return Linear(weight[:, None].to(x), (y_mean - x_mean @ weight)[None].to(x), chosen)


def linear_probe(
    train: Float[Tensor, "n dim"], test: Float[Tensor, "m dim"], targets: Targets, seed: int = 0
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores of the test samples from a linear probe on all training labels, and what was chosen."""
    x, x_test = _solver_precision(*standardise(train, test))
    if targets.task == "regression":
        fit = fit_ridge(x, torch.as_tensor(targets.train).to(x))
        return fit(x_test)[:, 0].double().cpu().numpy(), {"strength": fit.strength}
    link: Link = "softmax" if targets.task == "classification" else "sigmoid"
    y, strata = _one_hot(targets, x), targets.strata
    fit = fit_classifier(x, y, link, lambda inner: choose_strength(inner, y, strata, link, seed))
    return fit(x_test).double().cpu().numpy(), {"strength": fit.strength}


def low_shot_probe(
    train: Float[Tensor, "n dim"],
    test: Float[Tensor, "m dim"],
    targets: Targets,
    shots: int,
    *,
    draws: int = LOW_SHOT_DRAWS,
    seed: int = 0,
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Scores of the test samples for each of several draws of `shots` labels a class.

    Standardised with the whole training part, whose other labels are not looked at. The penalty is fixed at strength
    1 / samples (scikit-learn's C = 1): a handful of labels cannot choose it, and it hardly matters (measured: within
    half a point of the best on digits and Fashion-MNIST).
    """
    x, x_test = _solver_precision(*standardise(train, test))
    y = _one_hot(targets, x)
    scores, strength = [], 1 / (shots * len(targets.classes))
    for draw in low_shot_draws(targets.train, shots, draws, seed):
        picked = torch.from_numpy(draw).to(x.device)
        fit = fit_classifier(x[picked], y[picked], "softmax", lambda _: strength)
        scores.append(fit(x_test).double().cpu().numpy())
    return scores, {"strength": strength}


def _one_hot(targets: Targets, like: Tensor) -> Float[Tensor, "n outputs"]:
    labels = torch.as_tensor(targets.train)
    return (F.one_hot(labels, len(targets.classes)) if targets.task == "classification" else labels).to(like)


def _solver_precision(*parts: Tensor) -> list[Tensor]:
    """float64 while it is cheap (up to 16 M numbers), float32 beyond."""
    return [part.double() if parts[0].numel() <= 2**24 else part.float() for part in parts]
