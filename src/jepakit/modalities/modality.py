"""What the verbs know of a modality: how its data is configured, opened and prepared for an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor

from jepakit.core.batch import map_tensors
from jepakit.errors import UserError
from jepakit.randomness import Draws


@runtime_checkable
class Samples(Protocol):
    """Samples by index: `{"id", "label"?, ...}` with the modality's own keys. Picklable."""

    ids: np.ndarray  # each sample's id: its place in the whole data set, whatever the split
    labels: np.ndarray | None

    @property
    def paths(self) -> Sequence[str] | None:
        """The files that are decoded on the way, None where nothing is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def subset(self, indices: Sequence[int] | np.ndarray) -> Samples: ...


@runtime_checkable
class ClipSamples(Samples, Protocol):
    """Samples that are clips of frames, by position, with what is known of them; `show` gives a sample other pixels."""

    frames: np.ndarray  # those of each stored clip that a sample holds

    def pixels(self, index: int) -> Tensor:
        """Return a clip, `[frames, channels, height, width]`."""

    def show(self, index: int, pixels: Tensor) -> dict[str, Any]:
        """Return the sample with these pixels in place of its own."""

    def impossible(self, index: int, frame: int) -> dict[str, Tensor]:
        """Return the clip with what cannot happen from one of its frames on, by the name of the event; empty where the clips
        are not made by a formula."""

    def mask(self, index: int) -> UInt8[np.ndarray, "frames height width"] | None:
        """Return which pixels are the thing's (1) and which the ground's (0); None: not known."""

    def flow(self, index: int) -> Float[np.ndarray, "2 height width"] | None:
        """Return where each pixel of the first frame goes until the next, right and down in pixels; None: not known."""


@runtime_checkable
class Windows(Samples, Protocol):
    """Samples that are windows of recorded time, for world models: some observations and the actions between them, which
    `Inputs.windows` prepares.

    A recording is an episode, a patient, a market, a learner: what lies within one is alike.
    """

    @property
    def history(self) -> int:
        """The first observations of a window, from which the others are to be imagined."""

    @property
    def frame_skip(self) -> int:
        """Steps of the recording from one observation to the next."""

    @property
    def owners(self) -> Int[np.ndarray, "window"]:
        """The number of the recording that each window is of."""

    @property
    def state_names(self) -> Sequence[str]:
        """The names of the state's variables; empty where no state is known."""

    def known_states(self) -> Float[np.ndarray, "window time variable"] | None:
        """Return the true state at each observation; None: it is not known."""

    def observations(
        self, windows: Int[np.ndarray, "n"], times: Int[np.ndarray, "n"]
    ) -> list[dict[str, Any]]:
        """Return samples as `Inputs.prepare` and `Inputs.plain` read them, whose newest observation is the one at this time
        of this window."""


@runtime_checkable
class HasWindows(Protocol):
    """Opened data that world models are evaluated on."""

    def windows(self, horizon: int, most: int, seed: int) -> tuple[Windows, Windows]:
        """Return windows of the training and of the held-out part, at most `most` of each, drawn with the seed, with up to
        `horizon` observations after their history, as the recordings allow."""


@dataclass(frozen=True)
class Companion:
    """A further stream that a step draws from: `ratio` of its samples for each of the main stream."""

    dataset: Samples
    ratio: float


@runtime_checkable
class Data(Protocol):
    """Opened data, split: `test` is held out and never trained on.

    `config` has what was found filled in; `noun` is what messages call the samples ("images"); `fingerprint` changes
    with the data, for a resumed run to check; `notes` are said at the start.
    """

    train: Any
    test: Any
    config: Any
    name: str
    kind: str
    noun: str
    classes: list[str] | None
    task: Any
    fingerprint: str
    notes: list[str]

    @property
    def companions(self) -> Mapping[str, Companion]: ...


def remarks(data: Data) -> list[str]:
    """What a verb says of opened data before it begins: its notes, and which files were left out."""
    bad = getattr(data, "bad_files", [])
    if not bad:
        return list(data.notes)
    first = "; ".join(f"{one.path}: {one.reason}" for one in bad[:3])
    more = f"; and {len(bad) - 3:,} more, which jepakit inspect names" if len(bad) > 3 else ""
    return [*data.notes, f"Left out, as they cannot be read: {len(bad):,}: {first}{more}."]


def check_scale(image_size: Sequence[int], std: Sequence[float]) -> None:
    """Raise `UserError` unless an encoder's inputs have sizes to resize to and deviations to divide by."""
    if min(image_size, default=1) < 1 or not min(std, default=1.0) > 0:
        raise UserError(f"inputs: sizes {list(image_size)} and std {list(std)} must be above 0.")


class Inputs:
    """What a trained encoder expects of its input. Subclasses are frozen dataclasses of plain fields, which travel with
    the weights."""

    modality: ClassVar[str] = ""  # the name of the modality whose inputs these are
    plain_name: ClassVar[str]
    has_maps: ClassVar[bool] = False  # whether samples are pictures or clips, of whose pixels maps of labels can tell

    def prepare(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Samples as the encoder's input, without chance: a tensor or a dict of tensors, batch first."""
        raise NotImplementedError

    def plain(self, samples: Sequence[dict[str, Any]]) -> Float[Tensor, "batch features"]:
        """The field's plain features of the samples, the baseline `plain_name` of every evaluation."""
        raise NotImplementedError

    def map_view(self, labels: Num[np.ndarray, "*frames h w"]) -> Num[np.ndarray, "*frames height width"]:
        """A map of labels with the crop and the size that the pictures get, its labels unmixed. Only asked where `has_maps`."""
        raise NotImplementedError

    def windows(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`Windows` for a world model: `inputs [batch, time, ...]`, a tensor or a dict of them, and `actions [batch, time - 1,
        action]`."""
        raise NotImplementedError

    def first(self, inputs: Any, steps: int) -> Any:
        """Inputs of `windows`, cut to their first observations."""
        return map_tensors(lambda tensor: tensor[:, :steps], inputs)

    @property
    def action_scale(self) -> tuple[Float[Tensor, "action"], Float[Tensor, "action"]] | None:
        """Mean and deviation by which `windows` normalised actions; None: actions are no quantities that have an opposite."""
        return None

    @property
    def large(self) -> bool:
        """Whether samples are large for the little that their labels say: probes then learn from fewer."""
        return False

    def describe(self) -> str:
        """The size of a sample in words: "28 x 28 pixels"."""
        raise NotImplementedError

    def sample(self, step: Any) -> dict[str, Any]:
        """One step of a stream, checked, as `prepare` takes it. By default a step is a sample, as the data sets give them.

        Errors: it does not fit.
        """
        if not isinstance(step, Mapping):
            raise UserError(f"A step of this stream is a sample, a dict, got {type(step).__name__}. Give those of its data.")
        return dict(step)

    @property
    def window(self) -> int | None:
        """Steps that one prepared sample is made of; None: a sample is one step."""
        return None

    @property
    def prepared_shape(self) -> tuple[int, ...] | None:
        """Shape of one prepared sample, where all are tensors of that shape and their encoder can be exported as a graph."""
        return None

    def joined(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return samples of single steps as one sample of them all; where there is a `window`."""
        raise NotImplementedError

    def joined_prepared(self, prepared: Sequence[Tensor]) -> Tensor:
        """Return prepared steps `[1, ...]` as the prepared sample of them all; where there is a `window`."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Options of the data's config with which other data is read as this encoder needs it."""
        return {}


ConfigType = TypeVar("ConfigType")
InputsType = TypeVar("InputsType", bound=Inputs)
DataType = TypeVar("DataType", bound=Data)


@runtime_checkable
class WorldInputs(Protocol):
    """What a world model of any modality expects of its input, as planners, agents and streams ask for it.

    shape: of an observation, `[dim]` or `[channels, height, width]`. action: numbers of an action block. history, horizon:
    observations of a window to predict from, and after them.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def action(self) -> int: ...

    @property
    def history(self) -> int: ...

    @property
    def horizon(self) -> int: ...

    @property
    def action_mean(self) -> tuple[float, ...]: ...

    @property
    def action_std(self) -> tuple[float, ...]: ...

    def normalise(self, observations: Tensor) -> Tensor:
        """Stored observations `[..., *shape]` to zero mean and unit deviation."""
        ...

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Action blocks to zero mean and unit deviation."""
        ...

    def plain(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """The field's plain features of the samples' last observations."""
        ...

    def observation(self, step: Any) -> Tensor:
        """An observation, checked."""
        ...

    def action_block(self, action: Any) -> Tensor:
        """What was done between two observations, checked."""
        ...


@runtime_checkable
class Inspection(Protocol):
    """What was found of a data set: as plain values, and for a terminal (`rich`)."""

    def to_dict(self) -> dict[str, Any]: ...

    def render(self) -> Any: ...


@dataclass(frozen=True)
class Inspected:
    """What a modality's `inspect` returns: the facts, a matplotlib figure of some samples, and what the figure shows."""

    facts: Inspection
    figure: Any
    caption: str


@dataclass(frozen=True)
class Modality(Generic[ConfigType, InputsType, DataType]):
    """A kind of data, answering for itself.

    Config: the options of the data, `data` first. Inputs: what a trained encoder expects, which travels with its weights.
    open: `open(config, seed, source=None)`, where `source` is a data set object given in Python. inputs: what an encoder
    trained on that data will expect.

    holds: whether a path can only be data of this kind, so that `jepakit inspect` needs no system's name.
    inspect: `inspect(config, seed, source, example) -> Inspected`, as `module:function`, since it may import what draws.
        `example(inputs)` is an untrained system of the modality whose masks or views the figure shows; None: there is none.
        None: the samples are counted (`modalities/counting.py`).
    pictures: `pictures(system, samples, shown, seed)`, the parts of the report's data that show held-out samples, as
        `module:function`; None: nothing can be drawn.
    blank: `blank(config) -> inputs, sample`: of the data's options alone, what an encoder would expect and an empty sample, to
        plan a run with; None: shapes come from the data.
    pack: `pack(config, source, out, encoding, shard_bytes)` writes what is quicker to train from, and says what it wrote, as
        `module:function`; None: there is no such form.
    decoding: samples a second that one core decodes (assumed, for plans), and what they are decoded from; None: nothing is.
    """

    name: str
    Config: type[ConfigType]
    Inputs: type[InputsType]
    open: Callable[..., DataType]
    inputs: Callable[[DataType], InputsType]
    holds: Callable[[str], bool] = lambda place: False
    inspect: str | None = None
    pictures: str | None = None
    blank: Callable[[ConfigType], tuple[InputsType, dict[str, Any]]] | None = None
    decoding: tuple[int, str] | None = None
    pack: str | None = None


def sample_draws(samples: Sequence[dict[str, Any]], seed: int, stream: str) -> Draws:
    """The random stream of each sample, from (seed, epoch, id); samples outside training count as epoch 0."""
    epochs = np.asarray([sample.get("epoch", 0) for sample in samples])
    return Draws(seed, stream, epochs, np.asarray([sample["id"] for sample in samples]))


def training_facts(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """When in the training samples are drawn: `step`, and `progress`, its share that is done, 1 outside of a training."""
    return {name: torch.tensor(samples[0].get(name, at)) for name, at in (("step", 0), ("progress", 1.0))}


def sample_facts(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The parts of a batch that no system adds: `id [batch]`, `label [batch, ...]` where known, and when in the training."""
    batch = {"id": torch.tensor([sample["id"] for sample in samples]), **training_facts(samples)}
    if "label" in samples[0]:
        batch["label"] = torch.as_tensor(np.stack([sample["label"] for sample in samples]))
    return batch
