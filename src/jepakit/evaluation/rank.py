"""Label-free signs of health: how many directions an embedding uses, and whether they carry anything.

Every function takes embeddings `[n, dim]` (LiDAR: `[n, views, dim]`) as a tensor, an array or a memory map of any length,
and computes in float64, a block at a time. None of them needs a label; all are cheap enough for a batch during training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.errors import UserError
from jepakit.evaluation.streaming import Rows, as_tensor, blocks, gram, moments

Embeddings = Float[Tensor, "..."] | Float[np.ndarray, "..."]  # [n, dim], checked inside with a message
EmbeddedViews = Float[Tensor, "..."] | Float[np.ndarray, "..."]  # [n, views, dim]


def _float64(embeddings: Tensor | np.ndarray, axes: int = 2) -> Rows:
    z = as_tensor(embeddings)
    if z.dim() != axes:
        names = "[samples, dim]" if axes == 2 else "[samples, views, dim]"
        raise UserError(f"embeddings must be {names}, got shape {list(z.shape)}.")
    if z.shape[0] < 2:
        raise UserError(f"at least two samples are needed, got {z.shape[0]}.")
    if not all(bool(torch.isfinite(block).all()) for (block,) in blocks(z)):
        raise UserError("embeddings hold NaN or infinite values: look at the loss and the learning rate first.")
    return Rows(z, Tensor.double)


def _centred(z: Rows) -> Rows:
    mean, _ = moments(z)
    return Rows(z, lambda rows: rows - mean)


def _normalised(z: Rows) -> Rows:
    return Rows(z, lambda rows: torch.nn.functional.normalize(rows, dim=1))


def _spectrum(z: Rows) -> Float[Tensor, "k"]:
    """Eigenvalues of z'z, descending, through the smaller of the two Gram matrices (same non-zero spectrum)."""
    n, dim = z.shape
    return torch.linalg.eigvalsh(gram(z) if n >= dim else z[:] @ z[:].T).flip(0).clamp_min(0)


def _exp_entropy(values: Float[Tensor, "k"], eps: float) -> float:
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return float(torch.exp(-(p * p.log()).sum()))


def rankme(embeddings: Embeddings, *, centre: bool = False) -> float:
    """RankMe (Garrido et al. 2023): exponential of the entropy of the singular values, from 1 to min(n, dim).

    The original does not centre: a large common mean then lowers the number, as one more sign of collapse.
    Use one view of each sample, and n well above dim.
    """
    z = _float64(embeddings)
    return _exp_entropy(_spectrum(_centred(z) if centre else z).sqrt(), eps=1e-7)


@dataclass(frozen=True, kw_only=True)
class Lidar:
    """value: effective number of directions that tell samples apart, from 1 to min(dim, n - 1).

    top: largest eigenvalue of the LDA matrix; views that share nothing reach about 1 / q in *every* direction.
    noise: top < 5 / q. The value is then high and means nothing: the embeddings do not tell samples apart.
    """

    value: float
    n: int
    q: int
    top: float
    noise: bool


def lidar(views: EmbeddedViews, *, delta: float = 1e-4) -> Lidar:
    """LiDAR (Thilak et al. 2024): effective rank of the LDA matrix whose classes are the q views of each of n samples.

    `delta` regularises the within-sample covariance; it must be small beside the within-sample variance.
    """
    e = _float64(views, axes=3)
    n, q, dim = e.shape
    if q < 2:
        raise UserError("lidar needs at least two views of each sample.")
    between = _centred(Rows(e, lambda views: views.mean(dim=1)))
    within = gram(Rows(e, lambda views: (views - views.mean(dim=1, keepdim=True)).flatten(0, 1)))
    variance, axes = torch.linalg.eigh(within / (n * (q - 1)) + delta * torch.eye(dim).to(within))
    whiten = axes * variance.clamp_min(delta).rsqrt() / math.sqrt(n - 1)
    eigenvalues = _spectrum(Rows(between, lambda means: means @ whiten))
    top = float(eigenvalues[0])
    return Lidar(value=_exp_entropy(eigenvalues, eps=1e-8), n=n, q=q, top=top, noise=top < 5 / q)


@dataclass(frozen=True, kw_only=True)
class AlphaReq:
    """alpha: decay of the covariance spectrum, eigenvalue j ~ j^-alpha; infinite below 3 living directions.

    fit: r² of the line in log-log; far below 1 the spectrum is no power law and alpha says little.
    first, last: the ranks (from 1) the line was fitted on.
    """

    alpha: float
    fit: float
    first: int
    last: int


def alpha_req(embeddings: Embeddings, *, first: int = 2, floor: float = 1e-9) -> AlphaReq:
    """alpha-ReQ (Agrawal et al. 2022). Near 1 is the reference; far above: few directions; far below: like noise.

    The line leaves out the ranks before `first` and the numerical tail (eigenvalues below `floor` of the largest).
    """
    spectrum = _spectrum(_centred(_float64(embeddings)))
    last = int((spectrum > floor * spectrum[0]).sum())
    if last - first < 1:
        return AlphaReq(alpha=math.inf, fit=0.0, first=first, last=last)
    x = torch.arange(first, last + 1, dtype=torch.float64, device=spectrum.device).log()
    y = spectrum[first - 1 : last].log()
    x, y = x - x.mean(), y - y.mean()
    slope = float((x @ y) / (x @ x))
    explained = float((slope * x).square().sum() / y.square().sum().clamp_min(1e-300))
    return AlphaReq(alpha=-slope, fit=min(1.0, explained), first=first, last=last)


def normalised_std(embeddings: Embeddings) -> float:
    """Mean per-dimension std of L2-normalised embeddings × sqrt(dim): 1 = spread over the sphere, 0 = collapsed."""
    z = _normalised(_float64(embeddings))
    n, dim = z.shape
    return float((moments(z)[1] * n / (n - 1)).sqrt().mean() * math.sqrt(dim))


def mean_cosine(embeddings: Embeddings) -> float:
    """Mean cosine over *all* pairs of different samples, in closed form: near 0 = spread, 1 = collapsed."""
    z = _normalised(_float64(embeddings))
    n, own = len(z), sum(block.square().sum() for (block,) in blocks(z))  # n, but for zero vectors
    return float(((moments(z)[0] * n).square().sum() - own) / (n * (n - 1)))


def mean_correlation(embeddings: Embeddings) -> float:
    """Mean absolute correlation of two different dimensions: 0 = decorrelated, 1 = all dimensions say the same.

    Dimensions without variance count as uncorrelated. With n samples, independent dimensions reach sqrt(2 / (pi n)).
    """
    z = _float64(embeddings)
    dim = z.shape[1]
    if dim < 2:
        raise UserError("mean_correlation needs at least two dimensions.")
    covariance = gram(_centred(z))
    scale = covariance.diagonal().sqrt().clamp_min(1e-12)  # as `normalize` has it
    correlation = (covariance / scale / scale[:, None]).abs()
    return float((correlation.sum() - correlation.diagonal().sum()) / (dim * (dim - 1)))
