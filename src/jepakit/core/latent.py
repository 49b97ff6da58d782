"""Energy with a latent variable z that absorbs what x does not determine about y (LeCun 2022, "A path towards
autonomous machine intelligence", v0.9.2, section 4):

    E(x, y, z) = D(s_y, Pred(s_x, z)),    F(x, y) = min over z of E(x, y, z) + weight * R(z)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jepakit.core.energies import Energy
from jepakit.errors import UserError, check_choice, check_range

Predictor = Callable[[Tensor, Tensor | None], Tensor]
EnergyGiven = Callable[[Tensor | None], Tensor]  # of z


@dataclass(frozen=True, kw_only=True)
class NoLatent:
    """No z: the predictor is called with None and F is the plain energy."""


@dataclass(frozen=True, kw_only=True)
class DiscreteLatent:
    """z is one of `codes` one-hot vectors; its information is bounded by log(codes), which needs no penalty.

    beta: None takes the exact minimum over the codes; a number the soft one, -1/beta * log sum_z exp(-beta E), which
    lies below it by at most log(codes) / beta and lets gradient reach every code.
    """

    codes: int
    beta: float | None = None
    shared: float = 0.0
    """Of `FreeEnergy.lesson`: the share that all codes are taught alike."""

    def __post_init__(self) -> None:
        check_range("latent.codes", self.codes, 2)
        check_range("latent.shared", self.shared, 0, 1)
        if self.beta is not None and not self.beta > 0:
            raise UserError(f"latent.beta must be above 0, got {self.beta}; leave it out for the exact minimum.")

    def guess(self) -> Float[Tensor, "codes"]:
        """The z of somebody who asks for one future: the first code, as good as any."""
        return torch.eye(self.codes)[0]

    def draw(self, samples: int, seed: int = 0, scale: Tensor | None = None) -> Float[Tensor, "codes codes"]:
        """Every code once, whatever `samples` says: the prior is uniform and nothing need be drawn."""
        return torch.eye(self.codes)


@dataclass(frozen=True, kw_only=True)
class ContinuousLatent:
    """z is a vector of `dim` numbers, found by `steps` gradient steps from 0.

    weight, penalty: weight * R(z), with R the sum over z's dimensions of z^2 ("l2") or |z| ("l1"), beside an energy
    that is a mean over the target's. With weight 0 and as many dimensions as the target, z carries all of y: the energy
    is 0 for every y and tells nothing.

    The search walks backward through the predictor within the step, which sharded parameters (FSDP) do not allow: train
    with DDP.
    """

    dim: int
    weight: float = 1.0
    penalty: Literal["l2", "l1"] = "l2"
    steps: int = 30

    def __post_init__(self) -> None:
        check_range("latent.dim", self.dim, 1)
        check_range("latent.weight", self.weight, 0)
        check_range("latent.steps", self.steps, 1)
        check_choice("latent.penalty", self.penalty, ("l2", "l1"))

    def cost(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """weight * R(z) of each sample."""
        return self.weight * (z.square() if self.penalty == "l2" else z.abs()).sum(-1)

    def guess(self) -> Float[Tensor, "dim"]:
        """The z of somebody who asks for one future: 0, which costs least."""
        return torch.zeros(self.dim)

    def draw(self, samples: int, seed: int = 0, scale: Tensor | None = None) -> Float[Tensor, "samples dim"]:
        """Draws from the prior of which the penalty is the negative log-likelihood: normal for "l2", Laplace for "l1".

        Its width is `scale [dim]`, a root mean square (None: 1). The weight does not tell it: a predictor that answers to half
        the z as it did to the whole pays a quarter of the penalty.
        """
        check_range("samples", samples, 1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(samples, self.dim, generator=generator)
        if self.penalty == "l1":  # a normal whose variance is exponential is Laplace's, of variance 2 times the mean
            drawn = drawn * torch.empty_like(drawn).exponential_(generator=generator).sqrt()
        return drawn if scale is None else drawn * scale.to(drawn)


Latent = NoLatent | DiscreteLatent | ContinuousLatent


@dataclass
class FreeEnergy:
    """F(x, y), one number a sample, for a predictor called as `predictor(s_x, z)`, z `[batch, codes or dim]` or None.

    Embeddings are `[batch, ..., dim]`; z belongs to the sample and serves all its tokens, whose energies are averaged:
    all of them, or those that are real (`valid`, in the shape of s_y without its dim).
    Training descends `energy(...).mean()`: gradient reaches the predictor and both embeddings at the z that was found,
    never through the search for it. The search calls the predictor many times, so that should hold no dropout and no
    batch statistics (or be in eval mode).
    """

    latent: Latent = field(default_factory=NoLatent)
    pair_energy: Energy = field(default_factory=lambda: Energy(name="l2"))

    def infer(
        self,
        predictor: Predictor,
        s_x: Float[Tensor, "batch_x *x"],
        s_y: Float[Tensor, "batch *y"],
        valid: Bool[Tensor, "batch *tokens"] | None = None,
    ) -> Float[Tensor, "batch latent"] | None:
        """The z of least energy for each sample, without gradient; one-hot when discrete, None without a latent."""
        given = self._energy_given(predictor, s_x.detach(), s_y.detach(), valid)
        match self.latent:
            case DiscreteLatent(codes=codes):
                with torch.no_grad():
                    best = _each_code(codes, given, s_y).argmin(dim=1)
                return nn.functional.one_hot(best, codes).to(s_y)
            case ContinuousLatent() as latent:
                return _descend(latent, given, s_y)
            case _:
                return None

    def energy(
        self,
        predictor: Predictor,
        s_x: Float[Tensor, "batch_x *x"],
        s_y: Float[Tensor, "batch *y"],
        valid: Bool[Tensor, "batch *tokens"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """F(x, y) of each sample, the penalty of a continuous z included.

        What the predictor makes of s_x is its own affair, only its predictions are one for each s_y: one context may serve
        several targets, each with its z.
        """
        match self.latent:
            case DiscreteLatent(codes=codes, beta=beta) if beta is not None:
                given = self._energy_given(predictor, s_x, s_y, valid)
                return -torch.logsumexp(-beta * _each_code(codes, given, s_y), dim=1) / beta
            case _:
                return self.energy_at(predictor, s_x, s_y, self.infer(predictor, s_x, s_y, valid), valid)

    def energy_at(
        self,
        predictor: Predictor,
        s_x: Float[Tensor, "batch_x *x"],
        s_y: Float[Tensor, "batch *y"],
        z: Float[Tensor, "batch latent"] | None,
        valid: Bool[Tensor, "batch *tokens"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """E(x, y, z) of each sample at a z, the penalty of a continuous one included."""
        energy = self._energy_given(predictor, s_x, s_y, valid)(z)
        return energy + self.latent.cost(z) if isinstance(self.latent, ContinuousLatent) and z is not None else energy

    def lesson(
        self, predictor: Predictor, s_x: Float[Tensor, "batch_x *x"], s_y: Float[Tensor, "batch *y"]
    ) -> Float[Tensor, "batch"]:
        """What a predictor with a discrete latent is to descend where all of its codes will be asked, in planning:

            (1 - shared) min over z of E(x, y, z)  +  shared mean over z of E(x, y, z)

        Taught by the least energy alone, a code that is the best of no sample of some kind (an open door's, before a wall)
        may predict anything there, at no cost. The price is that two futures move towards each other by `shared` of their
        distance.
        """
        if not isinstance(self.latent, DiscreteLatent):
            raise UserError("lesson: only codes share what they are taught. Descend the energy of other latents.")
        each = _each_code(self.latent.codes, self._energy_given(predictor, s_x, s_y, None), s_y)
        return (1 - self.latent.shared) * each.amin(1) + self.latent.shared * each.mean(1)

    def _energy_given(self, predictor: Predictor, s_x: Tensor, s_y: Tensor, valid: Tensor | None) -> EnergyGiven:
        """E(x, y, z) of each sample as a function of z."""

        def given(z: Tensor | None) -> Float[Tensor, "batch"]:
            per_token = self.pair_energy(predictor(s_x, z), s_y).reshape(len(s_y), -1)
            if valid is None:
                return per_token.mean(1)
            real = valid.reshape(len(s_y), -1)
            return torch.where(real, per_token, 0).sum(1) / real.sum(1).clamp_min(1)

        return given


def _each_code(count: int, given: EnergyGiven, s_y: Tensor) -> Float[Tensor, "batch codes"]:
    codes = torch.eye(count, device=s_y.device, dtype=s_y.dtype)
    return torch.stack([given(code.expand(len(s_y), -1)) for code in codes], dim=1)


def _descend(latent: ContinuousLatent, given: EnergyGiven, s_y: Tensor) -> Float[Tensor, "batch latent"]:
    """Each sample by itself, so that its z does not depend on its batch; the best z met on the way is kept.

    Steps of Barzilai and Borwein's length (IMA J. Numer. Anal. 8, 1988), which follows the curvature: a search that
    stops early would make a matching y look better than it is. An L1 penalty acts by soft threshold after the step
    (SpaRSA: Wright, Nowak and Figueiredo 2009), so that entries of z become exactly 0.
    """
    threshold = latent.weight if latent.penalty == "l1" else 0.0

    def look(z: Tensor) -> tuple[Tensor, Tensor]:
        """F at z and the gradient of its smooth part, in z alone: the predictor must not gather any."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            # A view, for hooks on what a module is given (those that count operations) cannot follow a leaf.
            energy = given(z.view_as(z))
            smooth = energy if threshold else energy + latent.cost(z)
            (gradient,) = torch.autograd.grad(smooth.sum(), [z])
        return (energy + latent.cost(z)).detach()[:, None], gradient

    z = torch.zeros(len(s_y), latent.dim, device=s_y.device, dtype=s_y.dtype)
    least, gradient = look(z)
    best, length = z, torch.ones_like(least)
    for _ in range(latent.steps):
        moved = _shrink(z - length * gradient, length * threshold)
        value, new_gradient = look(moved)
        best, least = torch.where(value < least, moved, best), torch.minimum(value, least)
        change = moved - z
        curvature = (change * (new_gradient - gradient)).sum(-1, keepdim=True)
        longer = change.square().sum(-1, keepdim=True) / curvature.clamp_min(torch.finfo(z.dtype).tiny)
        length = torch.where(curvature > 0, longer, 2 * length).clamp(1e-6, 1e6)
        z, gradient = moved, new_gradient
    return best


def _shrink(z: Tensor, threshold: Tensor) -> Tensor:
    """Towards 0 by the threshold, and no further."""
    return z.sign() * (z.abs() - threshold).clamp_min(0)
