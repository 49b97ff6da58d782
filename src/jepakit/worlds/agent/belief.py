"""Belief: what an episode's memory says of a variable that nothing shows and that stays as it is (a locked door)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State

LEAST = 1e-4  # of the embeddings' variance: no prediction is trusted to be more exact


class Belief:
    """How likely each of a model's futures is, in each of several episodes, after what was met in them.

    Bayes' rule over the z's that plans are imagined under, all alike at first. A step of the model that was met has, under
    each, an error of prediction; it is taken for normal, with the variance that the best z's errors had so far in the episode:

        log p(z) = -1/2 sum over t of  e[t, z] / s,    s = the mean over t of  min over z of e[t, z]

    e: mean squared error over an embedding's numbers, which are taken for one observation: they err together. What z does not
    change counts for nothing.

    Args:
        model: a world model with a latent, in eval mode.
        latents: its futures, `[samples, z]`.
        episodes: how many.
    """

    def __init__(self, model: Dynamics, latents: Float[Tensor, "samples z"], episodes: int):
        self.model, self.latents = model, latents
        self.errors = torch.zeros(episodes, len(latents))  # sums over what was met
        self.best = torch.zeros(episodes)
        self.met = 0

    def update(
        self, before: State, actions: Float[Tensor, "episodes action"], after: Float[Tensor, "episodes *tokens dim"]
    ) -> None:
        """What came after `actions`, as the model takes them, in the states before."""
        rows, samples = len(actions), len(self.latents)
        owner = torch.arange(rows, device=actions.device).repeat_interleave(samples)
        given = self.latents.to(actions).repeat(rows, 1)
        with torch.no_grad():
            ahead = self.model.rollout(before, actions[owner][:, None], given, owner).embeddings[:, 0]
            error = (ahead - after[owner]).square().flatten(1).mean(1).unflatten(0, (rows, samples)).float().cpu()
        self.errors += error
        self.best += error.amin(1)
        self.met += 1

    def shares(self) -> Float[Tensor, "episodes samples"]:
        """Of each z; rows sum to 1."""
        if not self.met:
            return torch.full_like(self.errors, 1 / self.errors.shape[1])
        usual = (self.best / self.met).clamp_min(LEAST)
        return (-0.5 * self.errors / usual[:, None]).softmax(1)
