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
from jepakit.evaluation.streaming import Array, Matrix, Rows, as_tensor, blocks, gram, moments
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
IN_MEMORY = 2**24  # numbers of a part at most to be held standardised, in float64
Link = Literal["softmax", "sigmoid"]


def standardise(train: Array, *others: Array) -> list[Matrix]:
    """All parts on the training part's scale: mean 0 and std 1 there. Dimensions constant in training become 0.

    float64 while that is cheap (up to 16 M numbers); beyond, float32, and a part is worked out where its rows are asked for.
    """
    parts = [as_tensor(part) for part in (train, *others)]
    mean, variance = moments(parts[0])
    std = variance.sqrt()
    alive = std > 1e-6 * (std.amax() + mean.abs())
    scale = torch.where(alive, 1 / torch.where(alive, std, 1.0), 0.0)
    dtype = torch.float64 if parts[0].numel() <= IN_MEMORY else torch.float32
    mean, scale = mean.to(dtype), scale.to(dtype)
    rows = [Rows(part, lambda x: (x.to(dtype) - mean).mul_(scale)) for part in parts]
    return [part[:] if part.shape.numel() <= IN_MEMORY else part for part in rows]


@dataclass(frozen=True)
class Linear:
    """`scores = x @ weight + bias`, `[n, outputs]`, with the penalty it was fitted under."""

    weight: Float[Tensor, "dim outputs"]
    bias: Float[Tensor, "outputs"]
    strength: float

    def __call__(self, x: Matrix) -> Float[Tensor, "n outputs"]:
        return torch.cat([torch.addmm(self.bias, block, self.weight) for (block,) in blocks(x)])


def fit_logistic(
    x: Matrix,
    y: Matrix,
    strength: float,
    *,
    link: Link = "softmax",
    start: Linear | None = None,
    tolerance: float = 1e-5,
    iterations: int = 300,
) -> Linear:
    """Minimise mean cross-entropy + strength / 2 ‖weight‖² (the bias is free) by L-BFGS, of `x [n, dim]`, `y [n, outputs]`.

    "softmax": one distribution over the outputs (`y` rows sum to 1); "sigmoid": an independent yes or no for each.
    `tolerance` bounds the largest component of the preconditioned gradient at the end. Loss and gradient are those of all
    rows, summed a block at a time.
    """
    (n, dim), outputs, like = x.shape, y.shape[1], x[:1]
    turn = _preconditioner(x, strength) if dim <= PRECONDITION_DIM else None
    origin = like.new_zeros(dim + 1, outputs) if start is None else torch.cat([start.weight, start.bias[None]])

    def parameters(steps: np.ndarray) -> Tensor:
        moved = torch.from_numpy(steps).to(like).view(dim + 1, outputs)
        return origin + (moved if turn is None else torch.cat([turn @ moved[:-1], moved[-1:]]))

    def objective(steps: np.ndarray) -> tuple[float, np.ndarray]:
        current = parameters(steps)
        weight, bias = current[:-1], current[-1]
        rowwise = weight.T.contiguous()  # as products with few columns are fastest
        loss, slope = like.new_zeros((), dtype=torch.float64), torch.zeros_like(current, dtype=torch.float64)
        for rows, wanted in blocks(x, y):
            logits = F.linear(rows, rowwise, bias)
            if link == "softmax":
                loss += (torch.logsumexp(logits, dim=1) - (logits * wanted).sum(dim=1)).double().sum()
                residual = torch.softmax(logits, dim=1) - wanted
            else:
                loss += (F.softplus(logits) - logits * wanted).sum(dim=1).double().sum()
                residual = torch.sigmoid(logits) - wanted
            slope[:-1] += (residual.T @ rows).T  # several times faster than rows.T @ residual
            slope[-1] += residual.sum(dim=0)
        slope /= n
        slope[:-1] += strength * weight
        if turn is not None:
            slope[:-1] = turn.double() @ slope[:-1]
        value = loss / n + strength / 2 * weight.double().square().sum()
        return float(value), slope.cpu().numpy().ravel()

    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 1e-10}
    found = minimize(objective, np.zeros(origin.numel()), jac=True, method="L-BFGS-B", options=options)
    solution = parameters(found.x)
    return Linear(solution[:-1], solution[-1], strength)


def _preconditioner(x: Matrix, strength: float) -> Float[Tensor, "dim dim"]:
    """Inverse square root of an upper bound of the curvature.

    The solver walks in weights seen through it: the minimum is the same, correlated features slow it down far less.
    """
    rows = x[:: max(1, len(x) // PRECONDITION_ROWS)]
    values, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    return axes * (values.clamp_min(0) / 4 + strength).rsqrt() @ axes.T


def choose_strength(x: Matrix, y: Matrix, strata: np.ndarray, link: Link, seed: int) -> float:
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
        fit_rows, check = (torch.from_numpy(rows[where]).to(x[:1].device) for where in (assigned != fold, assigned == fold))
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
    x: Matrix,
    y: Matrix,
    link: Link,
    choose: Callable[[Matrix], float],
) -> Linear:
    """Fit on all of `x` with the strength that `choose` finds (it is given `x` in the coordinates of the fit)."""
    with _threads_for(x):
        if len(x) > min(x.shape[1] // 2, ROW_SPACE):
            return fit_logistic(x, y, choose(x), link=link, iterations=FINAL_ITERATIONS)
        inner, basis = _row_space(x[:])
        fit = fit_logistic(inner, y, choose(inner), link=link, iterations=FINAL_ITERATIONS)
        return Linear(basis @ fit.weight, fit.bias, fit.strength)


@contextmanager
def _threads_for(x: Matrix) -> Iterator[None]:
    """One thread for small problems: thousands of tiny products gain nothing from more, and on a busy machine each
    waits for the slowest thread (measured: up to a hundred times slower). Torch and the solver's BLAS alike."""
    threads = torch.get_num_threads()
    if x.shape.numel() >= 2**22:
        yield
        return
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def fit_ridge(x: Matrix, y: Float[Tensor, "n *outputs"], strengths: Sequence[float] = RIDGE_STRENGTHS) -> Linear:
    """Ridge regression of `x [n, dim]` in closed form; for each output the strength with the least exact leave-one-out error
    (the result names the largest of them).

    Minimises mean squared error + strength ‖weight‖²; the bias is free. Reads `x` three times: for its mean, for x'x, and
    for the errors.
    """
    n, like = len(x), x[:1]
    y = y.double().reshape(n, -1)
    x_mean, y_mean = moments(x)[0], y.mean(dim=0)
    target = y - y_mean
    inner: Matrix = Rows(x, lambda rows: rows.double() - x_mean)
    basis = None
    if n < x.shape[1]:
        inner, basis = _row_space(inner[:])
    values, axes = torch.linalg.eigh(gram(inner))
    values, turned = values.clamp_min(0), Rows(inner, lambda rows: rows @ axes)
    shrink = 1 / (values + n * torch.tensor(strengths, dtype=values.dtype, device=values.device)[:, None])
    along = torch.as_tensor(sum(rows.T @ wanted for rows, wanted in blocks(turned, target)))
    shrunk = shrink[..., None] * along  # [strengths, axes, outputs]
    errors = shrink.new_zeros(len(strengths), y.shape[1])
    for rows, wanted in blocks(turned, target):
        leverage = 1 / n + rows.square() @ shrink.T
        fitted = (rows @ shrunk.transpose(0, 1).flatten(1)).unflatten(1, errors.shape)
        left_out = (wanted[:, None] - fitted) / (1 - leverage).clamp_min(1e-9)[..., None]
        errors += left_out.square().sum(dim=0)
    chosen = errors.argmin(dim=0)
    weight = axes @ torch.stack([shrunk[number, :, output] for output, number in enumerate(chosen)], dim=1)
    weight = weight if basis is None else basis @ weight
    return Linear(weight.to(like), (y_mean - x_mean @ weight).to(like), max(strengths[int(one)] for one in chosen))


def linear_probe(train: Array, test: Array, targets: Targets, seed: int = 0) -> tuple[np.ndarray, dict[str, float]]:
    """Scores of the test samples `[m, dim]` from a linear probe on all training labels, and what was chosen.

    Memory maps stay on disk, and are read a block at a time, once for every step of the solver. Of its own the process then
    needs under 256 MiB for 1,000,000 × 384 float32 and 10 classes (measured: 44 to 59 MiB), and the scores.
    """
    x, x_test = standardise(train, test)
    if targets.task == "regression":
        fit = fit_ridge(x, torch.as_tensor(targets.train).to(x[:1]))
        return fit(x_test).double().cpu().numpy().reshape(-1, *targets.train.shape[1:]), {"strength": fit.strength}
    link: Link = "softmax" if targets.task == "classification" else "sigmoid"
    y, strata = _wanted(targets, x[:1]), targets.strata
    fit = fit_classifier(x, y, link, lambda inner: choose_strength(inner, y, strata, link, seed))
    return fit(x_test).double().cpu().numpy(), {"strength": fit.strength}


def low_shot_probe(
    train: Array,
    test: Array,
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
    x, x_test = standardise(train, test)
    y = _wanted(targets, x[:1])
    scores, strength = [], 1 / (shots * len(targets.classes))
    for draw in low_shot_draws(targets.train, shots, draws, seed):
        picked = torch.from_numpy(draw).to(x[:1].device)
        fit = fit_classifier(x[picked], y[picked], "softmax", lambda _: strength)
        scores.append(fit(x_test).double().cpu().numpy())
    return scores, {"strength": strength}


def _wanted(targets: Targets, like: Tensor) -> Rows:
    """Training targets `[n, outputs]` of the type and on the device of `like`; classes one-hot."""
    labels = torch.as_tensor(targets.train).to(like.device)
    if targets.task == "multilabel":
        return Rows(labels, lambda rows: rows.to(like))
    return Rows(labels, lambda rows: F.one_hot(rows, len(targets.classes)).to(like))
