"""Reads clips that come as arrays: `[n, frames, height, width]`, `[n, frames, channels, height, width]`, or channels last.

`uint8` is kept, floats must lie in [0, 1]. A `.npz` holds them under `clips` or `x` (or `x_train` and `x_test`), labels under
`labels` or `y`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.files.arrays import map_array
from jepakit.modalities.images.arrays import Arrays, read_arrays
from jepakit.modalities.labels import Labels, array_labels


class ArrayClips:
    """Clips in memory, or in a memory-mapped `.npy` that is opened anew after pickling; `read(id) -> [frames, channels,
    height, width]`, `uint8` or `float32` in [0, 1]."""

    def __init__(self, arrays: list[NDArray], path: str | None = None):
        self._arrays: list[NDArray] | None = arrays
        self._path = path
        layouts = [_layout(array.shape) for array in arrays]
        if len(set(layouts)) > 1:
            raise UserError(f"The training and test clips differ: {arrays[0].shape} and {arrays[1].shape}. Make them alike.")
        self.channels_last, self.frames, self.channels, *size = layouts[0]
        self.image_size = (size[0], size[1])
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])
        for array in arrays:
            _check_values(array)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int, frame: int | None = None) -> Shaped[np.ndarray, "frames channels height width"]:
        """A clip, or one frame of it."""
        if self._arrays is None:
            self._arrays = [np.load(str(self._path), mmap_mode="r", allow_pickle=False)]
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        clip = self._arrays[part][index - self._starts[part]]
        clip = np.asarray(clip if frame is None else clip[frame : frame + 1])
        if clip.ndim == 3:
            clip = clip[:, None]
        elif self.channels_last:
            clip = clip.transpose(0, 3, 1, 2)
        return np.array(clip, dtype=np.uint8 if clip.dtype == np.uint8 else np.float32)

    def __getstate__(self) -> dict[str, object]:
        # A mapped file would be pickled as a copy of all its pixels.
        return {**self.__dict__, "_arrays": None} if self._path else self.__dict__


def read_clips(
    data: str, labels: str | None, source: object | None
) -> tuple[ArrayClips, Labels | None, NDArray[np.bool_] | None]:
    """The clips of a file or of an array object, their labels, and which are held out where the file says so."""
    if source is not None:
        clips, values = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
        arrays = Arrays([np.asarray(clips)], None if values is None else [np.asarray(values)])
    else:
        arrays = read_arrays(_array_file(data, "data"))
    try:
        opened = ArrayClips(arrays.images, arrays.path)
    except UserError as error:
        raise UserError(f"{data}: {error}") from error
    test = None
    if len(arrays.images) == 2:
        test = np.arange(len(opened)) >= len(arrays.images[0])
    if labels == "none":
        return opened, None, test
    try:
        found = None if arrays.labels is None else np.concatenate(arrays.labels)
    except ValueError as error:
        raise UserError(f"The labels of {data} do not fit together ({error}). Give one for each clip.") from error
    if labels is not None:
        file = _array_file(labels, "labels")
        if file.suffix != ".npy":
            raise UserError(f"labels: {labels} is no .npy file. Labels in an .npz stand beside the clips, in one file.")
        found = map_array(file)
    if found is None:
        return opened, None, test
    if found.shape[:1] != (len(opened),):
        raise UserError(f"Labels of shape {list(found.shape)} for {len(opened)} clips of {data}: one for each is needed.")
    return opened, array_labels(found, f"those of {data}"), test


def read_stills(path: str) -> ArrayClips:
    """Pictures of a file, each as a clip of one frame."""
    arrays = read_arrays(_array_file(path, "stills"))
    return ArrayClips([array[:, None] for array in arrays.images])


def _array_file(path: str, option: str) -> Path:
    file = Path(path).expanduser()
    if file.suffix not in (".npy", ".npz") or not file.is_file():
        others = "a folder or a list of video files, or the name bouncing-digits"
        pictures = "a folder of pictures, the name of a built-in set of them, or frames or none"
        known = {"data": f", {others}", "stills": f", {pictures}", "labels": ', or "none"'}[option]
        raise UserError(f"{option}: {path} is no .npy or .npz file. Give one{known}.")
    return file


def _layout(shape: tuple[int, ...]) -> tuple[bool, int, int, int, int]:
    """Whether channels come last, frames, channels, height, width."""
    if len(shape) == 4 and 0 not in shape:
        return False, shape[1], 1, shape[2], shape[3]
    if len(shape) == 5 and 0 not in shape:
        if shape[2] in (1, 3):
            return False, *shape[1:]
        if shape[4] in (1, 3):
            return True, shape[1], shape[4], shape[2], shape[3]
    raise UserError(
        f"An array of shape {shape} is not a set of clips: expected [n, frames, height, width], or with 1 or 3 channels "
        "[n, frames, channels, height, width] or [n, frames, height, width, channels]."
    )


def _check_values(array: NDArray) -> None:
    if array.dtype == np.uint8:
        return
    for start in range(0, len(array) if array.dtype.kind == "f" else 0, 64):  # piece by piece: it may be larger than memory
        piece = np.asarray(array[start : start + 64])
        if not (np.isfinite(piece).all() and piece.min() >= 0 and piece.max() <= 1):
            raise UserError(f"Clips {start} to {start + len(piece) - 1} hold NaN or values outside [0, 1]. Scale them.")
    if array.dtype.kind != "f":
        raise UserError(f"Clips of type {array.dtype} are not understood; expected uint8, or floats in [0, 1].")
