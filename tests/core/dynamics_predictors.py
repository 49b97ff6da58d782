"""Predictors of the dynamics shape with different states, small enough to check by hand."""

import torch
from torch import nn


class Recurrent(nn.Module):
    """A GRU over (embedding, action, condition); its state is a vector and the newest embedding."""

    def __init__(self, dim, action, hidden=6, condition=0):
        super().__init__()
        self.cell = nn.GRUCell(dim + action + condition, hidden)
        self.head = nn.Linear(hidden, dim)

    def forward(self, embeddings, actions, condition=None):
        hidden, found = self._start(embeddings), []
        for t in range(embeddings.shape[1]):
            hidden = self._move(hidden, embeddings[:, t], actions[:, t], condition)
            found.append(self.head(hidden))
        return torch.stack(found, dim=1)

    def begin(self, embeddings, actions, lengths=None):
        hidden = self._start(embeddings)
        lengths = torch.full((len(embeddings),), embeddings.shape[1]) if lengths is None else lengths
        for t in range(actions.shape[1]):
            moved = self._move(hidden, embeddings[:, t], actions[:, t], None)
            hidden = torch.where((t < lengths - 1)[:, None], moved, hidden)
        return {"hidden": hidden, "newest": embeddings[torch.arange(len(embeddings)), lengths - 1]}

    def advance(self, state, action, condition=None):
        hidden = self._move(state["hidden"], state["newest"], action, condition)
        return {"hidden": hidden, "newest": self.head(hidden)}

    def embedding(self, state):
        return state["newest"]

    def _start(self, embeddings):
        return embeddings.new_zeros(len(embeddings), self.cell.hidden_size)

    def _move(self, hidden, embedding, action, condition):
        given = [embedding, action, *([] if condition is None else [condition])]
        return self.cell(torch.cat(given, dim=-1), hidden)


class Linear(nn.Module):
    """next = A embedding + B action + C condition: no memory, so the state is one vector (or a set of tokens)."""

    def __init__(self, dim, action, condition=0):
        super().__init__()
        self.a, self.b = nn.Linear(dim, dim), nn.Linear(action, dim, bias=False)
        self.c = nn.Linear(condition, dim, bias=False) if condition else None

    def forward(self, embeddings, actions, condition=None):
        extra = (1,) * (embeddings.dim() - actions.dim())
        found = self.a(embeddings) + self.b(actions).unflatten(2, (*extra, -1))
        if self.c is None or condition is None:
            return found
        return found + self.c(condition).reshape(len(condition), *[1] * (found.dim() - 2), -1)

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[torch.arange(len(embeddings)), -1 if lengths is None else lengths - 1]

    def advance(self, state, action, condition=None):
        return self(state[:, None], action[:, None], condition)[:, 0]

    def embedding(self, state):
        return state
