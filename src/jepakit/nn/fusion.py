"""Several encoders fused into one state over time: modalities at their own rates, each missing wherever it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range, did_you_mean
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.tokens import Tokens, valid_mask
from jepakit.nn.transformer import MLP, TokenTransformer


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Shape of the transformer that fuses, and the scale of time."""

    dim: int = 128
    """Width of the fused state."""
    depth: int = 2
    """Blocks over the observations."""
    heads: int = 4
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP, in widths."""
    resolution: float = 1.0
    """Smallest difference of time that matters, in the data's unit (seconds, days, steps)."""
    horizon: float = 1000.0
    """Largest time between what belongs together, in the same unit."""

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads"):
            check_range(f"fusion.{name}", getattr(self, name), 1)
        if self.dim % self.heads or self.dim % 2:
            raise UserError(f"fusion.dim {self.dim} must be a multiple of heads ({self.heads}) and of 2 (for time).")
        if not 0 < self.resolution < self.horizon:
            raise UserError(
                f"fusion.resolution must be above 0 and below fusion.horizon, got {self.resolution} and {self.horizon}."
            )


class FusedEncoder(TokenTransformer):
    """`encoder(inputs) -> Tokens`: one state for each base step, made of all that was observed up to it.

    inputs: `times [batch, steps]`, when a state is asked for (the base clock), optionally `lengths [batch]`, how many of
    them are real, and under each modality's name a dict of

      values   `[batch, its_steps, ...]`, what its encoder takes for each step;
      times    `[batch, its_steps]`, in the unit of the base clock, at any rate and in any order; in float64 where they are
               large (seconds since 1970);
      present  `[batch, its_steps]` bool: where there is a value. May be left out: everywhere.

    Returns: values `[batch, steps, dim]`, positions `[batch, steps, 1]` (the times). A state depends on observations of
    its own time and earlier ones, never on later ones or on what else is asked for, so that it may serve as the target of
    a prediction from an earlier one. Where nothing is observed yet it is a learned empty state (at that time).

    What is missing is not encoded and not attended to: whatever stands in its place, NaN included, has no effect. A
    modality that is missing from the whole batch is encoded as an empty one: its encoder takes part in the graph with
    zero gradient, as DDP and FSDP need. So an encoder must take a batch of no samples, as torch's layers do.

    Args:
        encoders: by name; `encoder(values [n, ...])` gives `[n, width]`, or Tokens, whose mean is taken. The width is its
            `dim` (or `out_features`).
        config: of the transformer.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], config: FusionConfig):
        super().__init__()
        self.config = config
        for name in encoders:
            if not name.isidentifier() or hasattr(nn.ModuleDict, name) or name in ("times", "lengths"):
                raise UserError(
                    f"{name!r} cannot name a modality: use a plain word other than times, lengths and a dict's methods."
                )
        self.project = nn.ModuleDict({name: nn.Linear(_width(name, part), config.dim) for name, part in encoders.items()})
        self.modality = nn.Parameter(torch.empty(1, len(encoders), config.dim))
        self.nothing = nn.Parameter(torch.empty(1, 1, config.dim))
        self.read = ReadOut(config)
        self.add_blocks(config.dim, config.depth, config.heads, config.mlp_ratio)
        for parameter in (self.modality, self.nothing):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.encoders = nn.ModuleDict(encoders)  # after `add_blocks`, which gives all that it finds new weights

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, inputs: Mapping[str, Any]) -> Tokens:
        self._check(inputs)
        asked = inputs["times"]
        state = self.read(self._observed(inputs), asked, self._time(asked))
        return Tokens(state, asked[..., None], inputs.get("lengths"))

    def _observed(self, inputs: Mapping[str, Any]) -> Tokens:
        """What each sample's observations became, in order of time, behind a token for nothing at time -inf."""
        streams = [inputs[name] for name in self.encoders]
        here = [s["present"] if "present" in s else torch.ones_like(s["times"], dtype=torch.bool) for s in streams]
        present = torch.cat(here, dim=1)
        times = torch.where(present, torch.cat([stream["times"] for stream in streams], dim=1), torch.inf)
        order = times.argsort(dim=1, stable=True)  # what is missing comes last
        lengths = present.sum(1)
        longest = int(lengths.max())
        times = F.pad(times.gather(1, order)[:, :longest], (1, 0), value=-torch.inf)

        # Where each observation stands in its sample's sequence, cut into the modalities again.
        places = order.argsort(dim=1).split([part.shape[1] for part in here], dim=1)
        pairs = enumerate(zip(streams, here, strict=True))
        embedded = torch.cat([self._embed(index, stream, part) for index, (stream, part) in pairs])
        rows = torch.cat([part.nonzero()[:, 0] for part in here])
        columns = torch.cat([place[part] for place, part in zip(places, here, strict=True)])
        x = embedded.new_zeros(len(present), longest, self.dim).index_put((rows, columns), embedded)
        x = torch.cat([self.nothing.to(x.dtype).expand(len(x), -1, -1), x], dim=1)

        keys = valid_mask(lengths + 1, longest + 1)
        moments = torch.searchsorted(times, times)  # what was observed at the same time sees each other
        layout = AttentionLayout(keys=keys, order="block-causal", blocks=moments)
        return Tokens(self.run(x, times[..., None], layout=layout).values, times[..., None], lengths + 1)

    def _embed(self, index: int, stream: Mapping[str, Tensor], here: Bool[Tensor, "batch its_steps"]) -> Tensor:
        """The observations of one modality, `[observed, dim]`, sample by sample; what is missing is never touched."""
        name = list(self.encoders)[index]
        encoded = self.encoders[name](stream["values"][here])
        encoded = encoded.mean() if isinstance(encoded, Tokens) else encoded
        return self.project[name](encoded) + self.modality[0, index] + self._time(stream["times"][here])

    def _time(self, times: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Sine and cosine of the time, frequencies from one a resolution to one a horizon, as radians."""
        half = self.dim // 2
        share = torch.arange(half, dtype=torch.float64, device=times.device) / max(1, half - 1)
        ratio = self.config.resolution / self.config.horizon
        angles = times.double()[..., None] / self.config.resolution * ratio**share
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.nothing.dtype)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        names = ["times", *self.encoders]
        for name in names:
            if name not in inputs:
                raise UserError(
                    f"The fused encoder's input lacks {name!r}. A modality that was not recorded is given all the same, with "
                    "present False, or with no steps."
                )
        for name in set(inputs) - {*names, "lengths"}:
            raise UserError(f"The fused encoder has no modality {name!r}. {did_you_mean(name, self.encoders)}")
        for name in self.encoders:
            stream = inputs[name]
            shape = list(stream["times"].shape)
            for part in ("values", "present"):
                if part in stream and list(stream[part].shape[:2]) != shape:
                    raise UserError(
                        f"{name}: {part} {list(stream[part].shape)} and times {shape} must agree in [batch, steps]."
                    )


class ReadOut(nn.Module):
    """One state for each time asked for: a query that attends to the observations up to then, and an MLP."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        self.heads = config.heads
        self.query = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.q = nn.Linear(config.dim, config.dim)
        self.kv = nn.Linear(config.dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = MLP(config.dim, round(config.dim * config.mlp_ratio))
        self.norm_out = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(
        self,
        observed: Tokens,
        times: Float[Tensor, "batch steps"],
        embedded_times: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch steps dim"]:
        x = self.query + embedded_times
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(observed.values), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        known = observed.valid[:, None] & (observed.positions[..., 0][:, None] <= times[..., None])
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=known[:, None])
        x = x + self.proj(rearrange(seen, "b h n d -> b n (h d)"))
        return self.norm_out(x + self.mlp(self.norm(x)))


def _width(name: str, encoder: nn.Module) -> int:
    for attribute in ("dim", "out_features"):
        if isinstance(getattr(encoder, attribute, None), int):
            return getattr(encoder, attribute)
    kind = type(encoder).__name__
    raise UserError(f"The encoder of {name!r}, a {kind}, does not say the width of its output: give it a `dim`.")
