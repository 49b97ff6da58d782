"""The predictor of the dynamics shape: a causal transformer over a window of embeddings, steered by the actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.attention_layout import AttentionLayout
from jepakit.nn.cached_rollout import ROWS, Layers, cached_rollout
from jepakit.nn.mlp import projection_head
from jepakit.nn.modulation import ModulatedBlock
from jepakit.nn.transformer import MLP, initialise_transformer
from jepakit.registry import SIZES


@dataclass(frozen=True, kw_only=True)
class DynamicsPredictorConfig:
    """Shape of the predictor, and of what it reads.

    embedding, action, condition: widths of an embedding, of an action and of a further condition (0: there is none);
    history: longest window; dim, depth, heads, head_dim (None: dim / heads), mlp_ratio, dropout: of the transformer; hidden:
    widths of the output head.
    """

    embedding: int
    action: int
    condition: int = 0
    history: int = 3
    dim: int = 192
    depth: int = 6
    heads: int = 16
    head_dim: int | None = None
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    hidden: tuple[int, ...] = (2048,)

    def __post_init__(self) -> None:
        for name in ("embedding", "action", "history", "dim", "depth", "heads"):
            check_range(f"predictor.{name}", getattr(self, name), 1)
        if self.head_dim is not None:
            check_range("predictor.head_dim", self.head_dim, 1)
        check_range("predictor.condition", self.condition, 0)
        check_range("predictor.dropout", self.dropout, 0, 1)
        if self.head_dim is None and self.dim % self.heads:
            raise UserError(f"predictor.dim {self.dim} must be a multiple of heads ({self.heads}), or give head_dim.")

    @classmethod
    def of_size(
        cls,
        size: str,
        embedding: int,
        action: int,
        history: int,
        hidden: tuple[int, ...],
        *,
        heads: int | None = None,
        head_dim: int | None = None,
        mlp: int | None = None,
        dropout: float = 0.0,
    ) -> DynamicsPredictorConfig:
        """The predictor of a named size (`jepakit list sizes`), with other heads or another hidden width where given."""
        dim, depth, listed = SIZES[size]["predictor"]
        return cls(
            embedding=embedding, action=action, history=history, dim=dim, depth=depth, heads=heads or listed,
            head_dim=head_dim, mlp_ratio=4.0 if mlp is None else mlp / dim, dropout=dropout, hidden=hidden,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Window:
    """The state of `CausalPredictor`: the newest observations, left-aligned, and the actions after each (the newest's is not
    known yet: 0). `lengths` says how many are real; at the start of an episode fewer than there is room for."""

    embeddings: Float[Tensor, "batch history dim"]
    actions: Float[Tensor, "batch history action"]
    lengths: Int[Tensor, "batch"]


class CausalPredictor(nn.Module):
    """The next embedding from up to `history` embeddings and actions (LeWorldModel, arXiv 2603.19312, section 3).

    A token for each time step, seeing itself and the past. Actions (and a further condition) enter every layer by adaptive
    layer norm that starts at zero, so that an untrained predictor ignores them. As the window is taught at every length at
    once (causal, positions counted from its oldest observation), a shorter history needs no padding.
    """

    def __init__(self, config: DynamicsPredictorConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.embedding, config.dim)
        self.positions = nn.Parameter(torch.zeros(1, config.history, config.dim))
        self.embed_action = nn.Sequential(nn.Linear(config.action, config.dim), MLP(config.dim, config.dim))
        self.embed_condition = nn.Linear(config.condition, config.dim) if config.condition else None
        self.blocks = nn.ModuleList(
            ModulatedBlock(config.dim, config.heads, config.dim, config.mlp_ratio, config.dropout, config.head_dim)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        initialise_transformer(self, self.blocks)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.head = projection_head(config.dim, config.hidden, config.embedding)

    def forward(
        self,
        embeddings: Float[Tensor, "batch time embedding"],
        actions: Float[Tensor, "batch time action"],
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch time embedding"]:
        """At each t the prediction of embedding t + 1, from the embeddings and actions up to t.

        Errors: a window longer than the history; a condition where the predictor has none, or none where it has one.
        """
        time = embeddings.shape[1]
        if time > self.config.history:
            raise UserError(f"This predictor looks back {self.config.history} observations, the window has {time}.")
        x = self.embed(embeddings) + self.positions[:, :time]
        steer = self._steer(actions, condition)
        layout = AttentionLayout(order="causal")
        for block in self.blocks:
            x = block(x, steer, layout)
        return self._project(self.norm(x))

    @property
    def looks_back(self) -> int:
        """Observations that a state is made of."""
        return self.config.history

    def begin(
        self,
        embeddings: Float[Tensor, "batch time embedding"],
        actions: Float[Tensor, "batch before action"],
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> Window:
        """The window after `time` observations and the `time - 1` actions between them; what is older is forgotten."""
        batch, time = embeddings.shape[:2]
        if actions.shape[1] != time - 1:
            raise UserError(f"{time} observations have {time - 1} actions between them, got {actions.shape[1]}.")
        if lengths is None:
            lengths = torch.full((batch,), time, device=embeddings.device)
        elif int(lengths.min()) < 1 or int(lengths.max()) > time:
            raise UserError(f"lengths lie between 1 and the {time} observations given, got {lengths.tolist()}.")
        history = self.config.history
        room = max(history - time, 0)
        embeddings, actions = F.pad(embeddings, (0, 0, 0, room)), F.pad(actions, (0, 0, 0, room + 1))
        return self._window(embeddings, actions, lengths)

    def advance(
        self,
        state: Window,
        action: Float[Tensor, "batch action"],
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Window:
        """The window after one more action, its newest observation predicted. The condition counts for the whole window."""
        newest = self._at(state.lengths - 1)
        actions = torch.where(newest, action[:, None], state.actions)
        predictions = self(state.embeddings, actions, condition)
        predicted = predictions.gather(1, self._index(state.lengths[:, None] - 1, predictions))
        grown = torch.where(self._at(state.lengths, 1), predicted, F.pad(state.embeddings, (0, 0, 0, 1)))
        return self._window(grown, F.pad(actions, (0, 0, 0, 1)), state.lengths + 1)

    def imagine(
        self,
        state: Window,
        actions: Float[Tensor, "rows horizon action"],
        condition: Float[Tensor, "rows condition"] | None = None,
        owner: Int[Tensor, "rows"] | None = None,
    ) -> tuple[Float[Tensor, "rows horizon embedding"], Window] | None:
        """What `advance` gives for each action in turn, by less arithmetic; None where it cannot be had so.

        Keys and values are kept while a window grows; those of observations are worked out once for each sample, whoever
        many rows start from it; only the newest token of a window is answered. A window that has slid is counted from
        another observation, and is worked out anew. For dropout and batch normalisation in training all tokens count, and
        samples that have seen different numbers of observations slide at different steps: neither is done here.

        owner: the sample that each row starts from; None: row i from sample i.
        """
        lengths = state.lengths
        if self.training or bool((lengths != lengths[0]).any()):
            return None
        rows = torch.arange(len(actions), device=actions.device)
        owner = rows if owner is None else owner
        parts = []
        for part in rows.split(ROWS):
            # A condition is a row's own and counts for what the row has seen, too.
            samples, own = owner[part].unique(return_inverse=True) if condition is None else (owner[part], part - part[0])
            observed = Window(state.embeddings[samples], state.actions[samples], lengths[samples])
            parts.append(self._roll(observed, own, actions[part], None if condition is None else condition[part]))
        found, seen = torch.cat(parts), int(lengths[0])
        embeddings = torch.cat([state.embeddings[owner, :seen], found], dim=1)
        done = F.pad(torch.cat([state.actions[owner, : seen - 1], actions], dim=1), (0, 0, 0, 1))
        return found, self._window(embeddings, done, lengths[owner] + actions.shape[1])

    def _roll(self, state: Window, owner: Tensor, actions: Tensor, condition: Tensor | None) -> Tensor:
        """The predictions after each action of each row, which starts from the sample that owns it."""
        seen = int(state.lengths[0])
        blocks: list[Any] = list(self.blocks)
        layers = Layers(
            self.embed, self.positions[0], lambda action: self._steer(action[:, None], condition)[:, 0], blocks,
            lambda x: self.head(self.norm(x)),
        )  # fmt: skip
        return cached_rollout(layers, state.embeddings[:, :seen], state.actions[:, : seen - 1], owner, actions)

    def embedding(self, state: Window) -> Float[Tensor, "batch embedding"]:
        """The newest embedding, observed or predicted."""
        return state.embeddings.gather(1, self._index(state.lengths[:, None] - 1, state.embeddings))[:, 0]

    def _window(self, embeddings: Tensor, actions: Tensor, lengths: Tensor) -> Window:
        """The newest `history` of `lengths` observations; what stands behind them, and behind their actions, is 0."""
        history = self.config.history
        kept = lengths.clamp(max=history)
        positions = (lengths - kept)[:, None] + torch.arange(history, device=lengths.device)
        embeddings = embeddings.gather(1, self._index(positions.clamp(max=embeddings.shape[1] - 1), embeddings))
        actions = actions.gather(1, self._index(positions.clamp(max=actions.shape[1] - 1), actions))
        place = torch.arange(history, device=lengths.device)
        real, acted = (place < kept[:, None])[..., None], (place < kept[:, None] - 1)[..., None]
        return Window(torch.where(real, embeddings, 0), torch.where(acted, actions, 0), kept)

    def _at(self, positions: Int[Tensor, "batch"], beyond: int = 0) -> Tensor:
        """True at one position of each window, `[batch, history + beyond, 1]`."""
        place = torch.arange(self.config.history + beyond, device=positions.device)
        return (place == positions[:, None])[..., None]

    @staticmethod
    def _index(positions: Int[Tensor, "batch chosen"], values: Tensor) -> Int[Tensor, "batch chosen width"]:
        return positions[..., None].expand(-1, -1, values.shape[-1])

    def _steer(self, actions: Tensor, condition: Tensor | None) -> Float[Tensor, "batch time dim"]:
        steer = self.embed_action(actions)
        if (condition is None) != (self.embed_condition is None):
            raise UserError(
                "This predictor was built without a condition and was given one." if condition is not None
                else f"This predictor needs a condition [batch, {self.config.condition}] and was given none."
            )
        if condition is None or self.embed_condition is None:
            return steer
        return steer + self.embed_condition(condition)[:, None]

    def _project(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time embedding"]:
        """The head, on time steps as samples: batch normalisation sees batch and time, as it does in the encoder's."""
        return rearrange(self.head(rearrange(x, "b t d -> (b t) d")), "(b t) d -> b t d", b=len(x))
