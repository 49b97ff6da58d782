"""What an encoder's stream remembers between its steps: nothing, the frames of a window, or the keys and values of a text."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from jepakit.core.state import State
from jepakit.device import to_device
from jepakit.errors import UserError, check_range
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.nn.language_model import KeysValues
from jepakit.nn.tokens import Tokens

Kind = Literal["each", "window", "incremental"]


@runtime_checkable
class CausalEncoder(Protocol):
    """An encoder of texts whose words are not changed by later ones: it goes on from keys and values that are kept."""

    def extend(self, words: Tensor, past: tuple[KeysValues, ...] = ()) -> tuple[Tokens, tuple[KeysValues, ...]]:
        """Read further words `[1, words]`: the embedding after them, and what is kept of all words."""
        ...


@runtime_checkable
class ReadsAnyLength(Protocol):
    """An encoder of clips that reads shorter and longer ones than those of its training."""

    def tubelet_of(self, frames: int) -> int:
        """Frames that a token covers in clips of so many frames. Errors: clips that the encoder cannot read."""
        ...


@runtime_checkable
class Memory(Protocol):
    """The part of a stream that depends on the model.

    window: the most steps (of a text: words) that a state is made of. every: steps from one state to the next, where nothing
    else is asked for.
    """

    window: int
    every: int

    @property
    def kind(self) -> Kind:
        """How the newest state was made: of one step alone, from the whole window anew, or from what is kept of the past."""
        ...

    @property
    def about(self) -> str:
        """The same in words."""
        ...

    def reset(self) -> None:
        """Forget all steps."""

    def add(self, given: Any, action: Any = None) -> None:
        """One more step. Errors: it does not fit; nothing is changed then."""

    def state(self) -> Tokens | State | None:
        """The state, of a batch of one; None where the model needs more steps."""
        ...

    def offline(self, given: Sequence[Any], actions: Sequence[Any]) -> Tokens | State | None:
        """The same after these steps, from their last window alone, as the model is used on a data set."""
        ...

    def kept(self) -> list[Tensor]:
        """The tensors that are held."""
        ...


def memory_of(model: PretrainedEncoder, window: int | None) -> Memory:
    """What an encoder asks for. Errors: a window that it cannot have."""
    if isinstance(model.encoder, CausalEncoder):
        return Text(model, window)
    if model.inputs.window is not None:
        return Clip(model, window)
    if window not in (None, 1):
        raise UserError(f"window {window}: this encoder reads {model.modality.name} one by one. Leave window out.")
    return Single(model)


class Single:
    """Of encoders that read one thing at a time: the newest, until its state is asked for."""

    window, every = 1, 1
    kind: Kind = "each"
    about = "each step is encoded by itself"

    def __init__(self, model: PretrainedEncoder):
        self.model = model
        self.reset()

    def reset(self) -> None:
        self.newest: dict[str, Any] | None = None

    def add(self, given: Any, action: Any = None) -> None:
        no_action(action)
        self.newest = self.model.inputs.sample(given)

    def state(self) -> Tokens | None:
        newest, self.newest = self.newest, None
        return None if newest is None else self.model(self._prepared(newest))

    def offline(self, given: Sequence[Any], actions: Sequence[Any]) -> Tokens:
        return self.model(self._prepared(self.model.inputs.sample(given[-1])))

    def _prepared(self, sample: dict[str, Any]) -> Any:
        return to_device(self.model.inputs.prepare([sample]), device_of(self.model))

    def kept(self) -> list[Tensor]:
        return []


class Clip:
    """Of encoders of clips, whose tokens see each other in both directions of time: the prepared frames of a window.

    A new frame changes what all others mean, so that every state is worked out from the whole window. Until that is full,
    states are of the frames so far, where the encoder reads shorter clips.
    """

    kind: Kind = "window"

    def __init__(self, model: PretrainedEncoder, window: int | None):
        self.model, taught = model, model.inputs.window
        self.window, self.tubelet = taught if window is None else window, 1
        check_range("window", self.window, 1)
        self.shorter = isinstance(model.encoder, ReadsAnyLength)
        if isinstance(model.encoder, ReadsAnyLength):
            self.tubelet = model.encoder.tubelet_of(self.window)
        elif self.window != taught:
            raise UserError(f"window {self.window}: its encoder reads clips of {taught} frames. Leave it out.")
        self.every = self.tubelet
        self.reset()

    @property
    def about(self) -> str:
        return f"a window of {self.window} frames is encoded anew for each state, as its tokens see each other both ways"

    def reset(self) -> None:
        self.frames: deque[Tensor] = deque(maxlen=self.window)  # [1, channels, 1, height, width], prepared
        self.given: tuple[list[int], torch.dtype] | None = None

    def add(self, given: Any, action: Any = None) -> None:
        no_action(action)
        sample = self.model.inputs.sample(given)
        found = next((list(value.shape[1:]), value.dtype) for value in sample.values())
        if self.given not in (None, found):
            before = " ".join(map(str, self.given or ()))
            raise UserError(
                f"The frames of a stream are alike: those before were {before}, this one is {found[0]} {found[1]}. Convert it, "
                "or call reset() where another film begins."
            )
        self.given = found
        self.frames.append(to_device(self.model.inputs.prepare([sample]), device_of(self.model)))

    def state(self) -> Tokens | None:
        count = self._count(len(self.frames))
        return self.model(self.model.inputs.joined_prepared(list(self.frames)[-count:])) if count else None

    def offline(self, given: Sequence[Any], actions: Sequence[Any]) -> Tokens | None:
        count = self._count(len(given))
        if not count:
            return None
        clip = self.model.inputs.joined([self.model.inputs.sample(frame) for frame in given[-count:]])
        return self.model(to_device(self.model.inputs.prepare([clip]), device_of(self.model)))

    def _count(self, frames: int) -> int:
        """How many of the newest frames a state is made of."""
        count = min(frames, self.window) // self.tubelet * self.tubelet
        return count if self.shorter or count == self.window else 0

    def kept(self) -> list[Tensor]:
        return list(self.frames)


class Text:
    """Of a causal language model: the keys and values of a text's words, whose meaning no later word changes.

    The tokens at the end at which the embedding is read follow the newest word each time, and are not kept. A text longer than
    the window slides: its words then have other positions, and are read anew for each state.
    """

    every = 1

    def __init__(self, model: PretrainedEncoder, window: int | None):
        self.model, self.encoder = model, model.encoder
        self.window = model.inputs.max_length if window is None else window
        check_range("window", self.window, 1, model.inputs.max_length)
        self.reset()

    @property
    def kind(self) -> Kind:
        return "incremental" if self.count <= self.window else "window"

    @property
    def about(self) -> str:
        if self.kind == "window":
            return f"a text of more than {self.window} words slides, and the last {self.window} are read anew for each state"
        return f"keys and values of up to {self.window} words are kept; a longer text slides, and is read anew"

    def reset(self) -> None:
        self.ids: deque[int] = deque(maxlen=self.window)
        self.count = 0  # words so far
        self.read = 0  # those whose keys and values are kept
        self.past: tuple[KeysValues, ...] = ()

    def add(self, given: Any, action: Any = None) -> None:
        no_action(action)
        found = self._ids(given)
        self.ids.extend(found)
        self.count += len(found)

    def state(self) -> Tokens | None:
        if not self.ids:
            return None
        if self.count > self.window:
            self.past, self.read = (), 0
            return self.encoder(self._whole(list(self.ids)))
        encoder: Any = self.encoder
        new = torch.tensor([list(self.ids)[self.read :]], dtype=torch.long, device=device_of(self.model))
        state, self.past = encoder.extend(new, self.past)
        self.read = self.count
        return state

    def offline(self, given: Sequence[Any], actions: Sequence[Any]) -> Tokens:
        ids = [number for piece in given for number in self._ids(piece)]
        return self.encoder(self._whole(ids[-self.window :]))

    def _whole(self, ids: list[int]) -> dict[str, Tensor]:
        where = device_of(self.model)
        return {"tokens": torch.tensor([ids], device=where), "lengths": torch.tensor([len(ids)], device=where)}

    def _ids(self, piece: Any) -> list[int]:
        return self.model.inputs.ids_of(self.model.inputs.sample(piece)["text"])

    def kept(self) -> list[Tensor]:
        return [tensor for both in self.past for tensor in both]


def no_action(given: Any) -> None:
    """Raise `UserError` where an encoder is told of actions."""
    if given is not None:
        raise UserError("An encoder sees no actions. Leave action out, or stream the run of a world model by its path.")


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are; of one without any, the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
