"""The small networks of an agent: what reads states, its critic, its reactive actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.mlp import mlp


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network, and how it is trained."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of its hidden layers."""
    steps: int = 3000
    """Updates."""
    batch_size: int = 256
    lr: float = 1e-3
    """Of AdamW, decaying to 0 along a cosine."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            check_range(name, getattr(self, name), 1)
        for width in self.hidden:
            check_range("hidden", width, 1)
        check_range("lr", self.lr, 0)


class Standardised(nn.Module):
    """A network between numbers of any scale, `[..., inputs] -> [..., outputs]`: inside they are standardised."""

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int):
        super().__init__()
        self.layers = mlp(inputs, hidden, outputs)
        for name, width in (("x", inputs), ("y", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], place: Path) -> Standardised:
        """The network of these weights; `place` is where they were read. Errors: weights of something else."""
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(("layers.", "x_", "y_"))}
        widths = [len(tensor) for name, tensor in own.items() if name.endswith(".bias")]
        try:
            network = cls(len(own["x_mean"]), widths[:-1], widths[-1])
            network.load_state_dict(own)
        except (KeyError, IndexError, RuntimeError) as error:
            raise UserError(
                f"{place} does not hold a network as `jepakit evaluate` and `jepakit act --teach` write it. Run them again."
            ) from error
        return network.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "*shape inputs"]) -> Float[Tensor, "*shape outputs"]:
        return self.layers((x - self.x_mean) / self.x_std) * self.y_std + self.y_mean


def fitted(
    x: Float[Tensor, "n inputs"], y: Float[Tensor, "n outputs"], config: NetworkConfig, seed: int
) -> Standardised:
    """A network that gives y for x, by least squares of what is standardised; a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = Standardised(x.shape[1], config.hidden, y.shape[1])
        for name, given in (("x", x), ("y", y)):
            std = given.std(0, correction=0)
            getattr(network, f"{name}_mean").copy_(given.mean(0))
            # What never changed tells nothing; a thousandth of the largest deviation is as good as that.
            getattr(network, f"{name}_std").copy_(torch.where(std > 1e-3 * std.max(), std, std.max().clamp_min(1e-6)))
        optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        for _ in range(config.steps):
            rows = torch.randint(len(x), (min(config.batch_size, len(x)),), generator=generator)
            loss = F.mse_loss((network(x[rows]) - network.y_mean) / network.y_std, (y[rows] - network.y_mean) / network.y_std)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)
