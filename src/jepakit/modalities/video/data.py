"""Opens video clips: files, arrays or the built-in bouncing digits, split, with still pictures as a companion stream.

Choices made where nothing is said: of a file 16 frames at 4 a second, one clip a file, short files hold their last frame; of
arrays all frames of a clip; frames at their own size, of files that differ or are larger than 64 pixels at 96 x 96; the data's
own split, else `test_fraction` by class, of files whole ones; stills are single frames of the training clips. Frames are cut at
the centre. Nothing else is drawn from files but where a training clip begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.errors import UserError, check_choice
from jepakit.modalities.data import SplitData, fingerprint_of
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.images.survey import chosen_size, each
from jepakit.modalities.labels import Labels
from jepakit.modalities.modality import Companion
from jepakit.modalities.pixels import unit
from jepakit.modalities.splits import choose_test, limited
from jepakit.modalities.video.arrays import ArrayClips, read_clips, read_stills
from jepakit.modalities.video.bouncing_digits import DIRECTIONS, NOISE, TRAIN, BouncingDigits
from jepakit.modalities.video.collection import VideoCollection, VideoDataConfig
from jepakit.modalities.video.files import FileClips
from jepakit.modalities.video.moving_photographs import MovingPhotographs
from jepakit.modalities.video.samples import ClipDataset, Clips, StillDataset, StillPictures, pixels_of
from jepakit.modalities.video.sources import names_files, read_videos
from jepakit.modalities.video.timeline import Clock

_STATISTICS = 200  # clips that mean and deviation of the pixels are computed from
GENERATED = ("bouncing-digits", "noisy-bouncing-digits", "moving-photographs")
_FRAMES, _FPS = 16, 4.0  # of a clip of a file: V-JEPA 2 (arXiv 2506.09985)


@dataclass(kw_only=True)
class VideoData(SplitData):
    """Clips, split. mean, std: of the channels of training pixels in [0, 1]."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    noun: str = "clips"


def open_videos(config: VideoDataConfig, seed: int, source: object | None = None) -> VideoData:
    """Find, label and split the clips of `config.data`.

    Args:
        seed: draws the `limit` training clips, and where clips of files begin; not the split, and not what the bouncing
            digits do.
        source: an array of clips to use instead of a file, or a pair of it and labels.

    Raises:
        UserError: nothing there, bad files under `on_bad_file="error"`, shapes or labels that do not fit; with the remedy.
    """
    if source is None and config.data not in GENERATED and names_files(config.data):
        return split_videos(read_videos(config), config, seed)
    if config.clips > 1 or config.group_by is not None:
        option = "clips" if config.clips > 1 else "group_by"
        raise UserError(f"{option} is for video files; {config.data} holds clips already, without paths. Leave it out.")
    notes = []
    if config.fps is not None or (config.stride or 1) > 1:
        notes.append("fps and stride are for video files; the frames of these clips are taken evenly over their length.")
    config = replace(config, fps=None, stride=None)
    clips, labels, test = _open(config, source)
    test = choose_test(len(clips), config.test_fraction, labels=labels, own=test)
    chosen = clips.frames if config.frames is None else config.frames
    if chosen > clips.frames:
        raise UserError(f"frames {chosen}: the clips of {config.data} have only {clips.frames}. Lower --frames.")
    config = replace(config, frames=chosen, image_size=config.image_size or clips.image_size)
    frames = np.round(np.linspace(0, clips.frames - 1, chosen)).astype(np.int64)
    train_ids, test_ids = limited(np.flatnonzero(~test), config.limit, seed), np.flatnonzero(test)
    everything = ClipDataset(clips, np.arange(len(clips)), None if labels is None else labels.values, frames)
    train = everything.subset(train_ids)
    mean, std = _statistics(train)
    return VideoData(
        train=train,
        test=everything.subset(test_ids),
        config=config,
        name=config.data,
        kind="array" if isinstance(clips, ArrayClips) else config.data,
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        channels=clips.channels,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(clips, labels, train_ids, test),
        companions=_companions(config, train),
        notes=notes,
    )


def split_videos(collection: VideoCollection, config: VideoDataConfig, seed: int) -> VideoData:
    """`VideoData` of what was found in files, in clips. Whole files are held out. Errors: no file is long enough."""
    clock = clock_of(collection, config)
    config = replace(config, frames=clock.frames, fps=clock.fps, stride=clock.stride, image_size=frame_size(collection, config))
    assert config.image_size is not None  # decided by frame_size
    short = collection.footage.timelines.short(clock)
    used = np.flatnonzero(~short) if config.on_short_file == "skip" else np.arange(len(collection))
    notes = [*collection.notes, *_short_notes(config, int(short.sum()), len(collection))]
    if not len(used):
        raise UserError(
            f"{collection.name}: every file is shorter than a clip of {clock.frames} frames "
            f"({f'{clock.fps:g} a second' if clock.fps else f'one in {clock.stride}'}). Lower --frames, or hold their "
            "last frame with --on-short-file hold."
        )
    labels, test = collection.labels, np.zeros(len(collection), dtype=bool)
    if collection.test is not None:
        test = choose_test(len(collection), config.test_fraction, groups=collection.groups, own=collection.test)
    else:
        used_labels = None if labels is None else replace(labels, values=labels.values[used])
        groups = None if collection.groups is None else [collection.groups[file] for file in used]
        test[used] = choose_test(len(used), config.test_fraction, labels=used_labels, groups=groups)
    clips = FileClips(collection.footage, clock, config.clips, config.image_size, seed)

    ids = (used[:, None] * config.clips + np.arange(config.clips)).flatten()
    files = ids // config.clips
    if test[files].all():
        raise UserError(f"{collection.name}: no file is left to train on.")
    values = None if labels is None else labels.values[files]
    everything = ClipDataset(clips, ids, values, np.arange(clock.frames), collection.paths.take(files))
    held = np.flatnonzero(test[files])
    train = everything.subset(limited(np.flatnonzero(~test[files]), config.limit, seed))
    mean, std = _statistics(train)
    return VideoData(
        train=train,
        test=everything.subset(held),
        config=config,
        name=collection.name,
        kind=collection.kind,
        classes=None if labels is None else labels.classes,
        task=None if labels is None else labels.task,
        channels=clips.channels,
        mean=mean,
        std=std,
        fingerprint=_files_fingerprint(collection, config, train.ids, test),
        companions=_companions(config, train),
        bad_files=collection.bad_files,
        notes=notes,
    )


def clock_of(collection: VideoCollection, config: VideoDataConfig) -> Clock:
    """How the frames of a clip are chosen, decided where nothing is said."""
    frames = _FRAMES if config.frames is None else config.frames
    if collection.kind != "frames":
        fps = _FPS if config.fps is None and config.stride is None else config.fps
        return Clock(frames, fps, config.stride)
    if config.fps is not None:
        raise UserError(
            f"fps {config.fps:g}: {collection.name} holds folders of pictures, which do not say how long each is shown. Give "
            "--stride, to take every stride-th picture."
        )
    return Clock(frames, None, config.stride or 1)


def frame_size(collection: VideoCollection, config: VideoDataConfig) -> tuple[int, int]:
    """Height and width the model sees, as for images: `image_size`, or the files' own if it is one and small, or 96 x 96."""
    return chosen_size(ImageDataConfig(data=config.data, image_size=config.image_size), collection.shapes)


def _short_notes(config: VideoDataConfig, short: int, files: int) -> list[str]:
    if not short:
        return []
    done = "are left out" if config.on_short_file == "skip" else "hold their last frame (--on-short-file skip leaves them out)"
    return [f"{short:,} of {files:,} files are shorter than a clip and {done}."]


def _open(config: VideoDataConfig, source: object | None) -> tuple[Clips, Labels | None, NDArray[np.bool_] | None]:
    """The clips, their labels, and which are held out where the data says so."""
    if config.data not in GENERATED or source is not None:
        return read_clips(config.data, config.labels, source)
    if config.data == "moving-photographs":
        return _open_photographs(config)
    asked = "digit" if config.labels is None else config.labels
    check_choice("labels", asked, ("digit", "direction", "velocity", "position", "future", "none"))
    noise = NOISE if config.data == "noisy-bouncing-digits" else 0.0
    clips = BouncingDigits(8 if config.frames is None else config.frames, config.image_size or (32, 32), noise=noise)
    ids = np.arange(len(clips))
    facts, labels = clips.facts(ids), None
    if asked == "digit":
        labels = Labels(facts.digit, "classification", [str(digit) for digit in range(10)])
    elif asked == "direction":
        labels = Labels(facts.direction, "classification", list(DIRECTIONS))
    elif asked != "none":
        known = {"velocity": facts.velocity, "position": facts.position[:, -1], "future": facts.future}
        labels = Labels(known[asked].astype(np.float64), "regression")
    return clips, labels, ids >= TRAIN


def _open_photographs(config: VideoDataConfig) -> tuple[Clips, Labels | None, NDArray[np.bool_]]:
    check_choice("labels", config.labels or "none", ("motion", "none"))
    clips = MovingPhotographs(2 if config.frames is None else config.frames, config.image_size or (64, 64))
    ids, labels = np.arange(len(clips)), None
    if config.labels == "motion":
        facts = clips.facts(ids)
        labels = Labels(np.concatenate([facts.shift, facts.turn[:, None]], axis=1), "regression")
    return clips, labels, ids >= TRAIN


def _companions(config: VideoDataConfig, train: ClipDataset) -> dict[str, Companion]:
    if config.stills == "none":
        return {}
    if config.stills == "frames":
        count = train.clips.frames
        ids = (train.ids[:, None] * count + np.arange(count)).flatten()
        return {"image": Companion(StillDataset(train.clips, ids), config.stills_ratio)}
    if config.stills in ("digits", "fashion-mnist") or Path(config.stills).expanduser().is_dir() or ".tar" in config.stills:
        return {"image": Companion(_pictures(config, train.clips.channels), config.stills_ratio)}
    stills = read_stills(config.stills)
    if stills.channels != train.clips.channels:
        raise UserError(f"stills: {config.stills} has {stills.channels} channels, the clips {train.clips.channels}.")
    return {"image": Companion(StillDataset(stills, np.arange(len(stills))), config.stills_ratio)}


def _pictures(config: VideoDataConfig, channels: int) -> StillDataset:
    """The training pictures of a folder or of a built-in set, all of them where it has no split of its own."""
    asked = ImageDataConfig(
        data=config.stills, labels="none", image_size=config.image_size, channels=channels, test_fraction=0.0,
        on_bad_file=config.on_bad_file,
    )  # fmt: skip
    try:
        opened = open_images(asked, 0)
    except UserError as error:
        raise UserError(f"stills: {error}") from error
    return StillDataset(StillPictures(opened.train.pictures, channels), opened.train.ids)


def _statistics(train: ClipDataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = np.linspace(0, len(train) - 1, min(len(train), _STATISTICS)).astype(int)
    channels = train.clips.channels
    clips, count, first, second = train.clips, 0, np.zeros(channels), np.zeros(channels)
    if isinstance(clips, FileClips):  # one frame of each: decoding all takes minutes
        middle = clips.frames // 2
        seen = each(lambda index: torch.from_numpy(clips.read(index, middle)), train.ids[chosen], "Measuring pixels", few=50)
    else:
        seen = (pixels_of(train[int(index)]) for index in chosen)
    for pixels in seen:  # one by one: large clips would fill the memory
        values = unit(pixels).double().transpose(0, 1).flatten(1).numpy()
        count += values.shape[1]
        first, second = first + values.sum(1), second + (values**2).sum(1)
    mean = first / count
    std = np.sqrt(np.maximum((second - count * mean**2) / max(1, count - 1), 1e-6))
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(clips: Clips, labels: Labels | None, train: NDArray[np.int64], test: NDArray[np.bool_]) -> str:
    pixels = (clips.read(int(index)) for index in np.linspace(0, len(clips) - 1, 16).astype(int))
    values = None if labels is None else labels.values
    return fingerprint_of(f"{len(clips)} {clips.frames} {clips.image_size}", train, test, values, *pixels)


def _files_fingerprint(
    collection: VideoCollection, config: VideoDataConfig, train: NDArray[np.int64], test: NDArray[np.bool_]
) -> str:
    """Of what was seen of the files (no pixels), and of what a clip of them is."""
    timelines = collection.footage.timelines
    clip = (config.frames, config.fps, config.stride, config.clips, config.image_size)
    return fingerprint_of(
        f"{collection.kind} {len(collection)} {clip}", collection.shapes, timelines.counts, timelines.ends - timelines.firsts,
        train, test, None if collection.labels is None else collection.labels.values,
        *(name + "\0" for name in collection.relative),
    )  # fmt: skip
