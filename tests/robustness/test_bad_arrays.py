"""Arrays from files and from Python: of every type, shape and layout, damaged, lying and exploding."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import ImageData, open_images
from jepakit.modalities.trajectories.data import TrajectoryData, TrajectoryDataConfig, open_trajectories
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import VideoData, open_videos
from tests.robustness.mutations import mutations, replaced
from tests.robustness.oracle import check_all, outcome, refusal

COUNT = 6
NUMBERS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 9)).astype(np.uint8)


def npy(array: NDArray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def npz(**arrays: NDArray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as content, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for name, member in members:
            content.writestr(name, member)
    return buffer.getvalue()


def header(shape: str, dtype: str = "|u1", order: str = "False") -> bytes:
    """The start of a `.npy` with these words in its description."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def idx(array: NDArray, kind: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + array.tobytes()


# --- What a picture's pixels become, whatever type and layout they are stored in ------------------------------------------


def typed() -> dict[str, NDArray]:
    """The same pictures, and others, in every type and memory layout."""
    grey = NUMBERS
    whole = grey.astype(np.int64)
    wide = np.zeros((COUNT, 16, 9), np.uint8)
    wide[:, ::2] = grey
    return {
        "uint8": grey,
        "bool": grey > 99,
        "int8": grey.view(np.int8),
        "uint16": grey.astype(np.uint16) * 257,
        "big-endian uint16": (grey.astype(np.uint16) * 257).astype(">u2"),
        "int16": whole.astype(np.int16) - 99,
        "big-endian int32": whole.astype(">i4"),
        "uint32": whole.astype(np.uint32) * 2**24,
        "int64": whole - 2**40,
        "int64 at its ends": np.where(grey > 99, 2**63 - 1, -(2**63)),
        "uint64 at its end": whole.astype(np.uint64) * 2**56,
        "float16": (grey / 255).astype(np.float16),
        "big-endian float32": (grey / 255).astype(">f4"),
        "float64": grey / 255,
        "long double": (grey / 255).astype(np.longdouble),
        "floats beyond": grey - 7.5,
        "tiny floats": grey * 1e-300,
        "large floats": grey * 1e300,
        "constant": np.full((COUNT, 8, 9), 3.5),
        "zeros": np.zeros((COUNT, 8, 9)),
        "Fortran order": np.asfortranarray(grey),
        "negative strides": grey[::-1, ::-1, ::-1],
        "every other row": wide[:, ::2],
        "transposed": np.ascontiguousarray(grey.transpose(2, 1, 0)).T,
        "read-only": np.frombuffer(grey.tobytes(), np.uint8).reshape(grey.shape),
        "broadcast": np.broadcast_to(grey[:1], grey.shape),
        "subnormal range": np.where(grey > 99, 5e-324, -5e-324),
        "1 x 1": grey[:, :1, :1],
        "1 x 5000": np.resize(grey, (COUNT, 1, 5000)),
        "5000 x 2": np.resize(grey, (COUNT, 5000, 2)),
        "colour last": np.repeat(grey[..., None], 3, -1),
        "colour first": np.repeat(grey[:, None], 3, 1),
        "grey last": grey[..., None],
    }


def unit(array: NDArray, value_range: tuple[float, float] | None) -> NDArray[np.float64]:
    """The pixels in [0, 1] by the rule in the documentation, in exact enough arithmetic: `[n, h, w]` of the first channel."""
    if array.ndim == 4:
        array = array[:, 0] if array.shape[1] in (1, 3) else array[..., 0]
    values = array.astype(np.longdouble)
    low, high = float(values.min()), float(values.max())
    if value_range is not None:
        low, high = value_range
    elif array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        low, high = 0.0, 255.0 if array.dtype.itemsize == 1 else 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if high == low:
        high = low + 1
    return np.clip((values - low) / (np.longdouble(high) - np.longdouble(low)), 0, 1).astype(np.float64)


TYPED = [
    pytest.param(array, value_range, way, id=f"{name}, {way}, {value_range}")
    for name, array in typed().items()
    for way in ("npy", "npz")
    for value_range in (None, (-1.0, 300.0))
]


def test_types_and_layouts():
    check_all(TYPED, check_types_and_layouts)


def check_types_and_layouts(array: NDArray, value_range, way: str, folder: Path):
    place = folder / f"x.{way}"
    place.write_bytes(npy(array) if way == "npy" else npz(images=array, labels=np.arange(COUNT) % 2))
    config = ImageDataConfig(data=str(place), test_fraction=0.0, image_size=(16, 16), value_range=value_range)
    data = outcome(lambda: open_images(config, 0), "x.np")
    assert isinstance(data, ImageData), data
    assert len(data.train) == COUNT
    for index, wanted in enumerate(unit(array, value_range)):
        image = data.train[index]["image"].numpy()
        given = image[0] / (255 if image.dtype == np.uint8 else 1.0)
        assert given.shape == wanted.shape
        np.testing.assert_allclose(given, wanted, atol=1e-5)


# --- What is no set of pictures, clips or episodes ------------------------------------------------------------------------


def refused_arrays() -> dict[str, NDArray]:
    grey = NUMBERS / 255
    poisoned = {}
    for what, value in (("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        for dtype in (np.float16, np.float32, np.float64):
            array = grey.astype(dtype)
            array[-1, -1, -1] = value
            poisoned[f"{what} in {np.dtype(dtype)}"] = array
    shapes = [
        (),
        (0,),
        (5,),
        (5, 5),
        (0, 4, 4),
        (4, 0, 4),
        (4, 4, 0),
        (3, 4, 4, 2),
        (3, 4, 4, 4),
        (3, 5, 4, 7),
        (2, 2, 2, 2, 2, 2),
    ]
    return (
        poisoned
        | {f"shape {shape}": np.zeros(shape, np.uint8) for shape in shapes}
        | {
            "complex": grey.astype(np.complex64),
            "strings": NUMBERS.astype(str),
            "bytes": NUMBERS.astype("S3"),
            "dates": NUMBERS.astype("M8[s]"),
            "spans": NUMBERS.astype("m8[s]"),
            "void": NUMBERS.view("V1"),
            "records": np.zeros((3, 4, 4), [("r", "u1"), ("g", "f4")]),
            "one picture": np.zeros((40, 40, 3), np.uint8),
            "huge span": np.where(NUMBERS > 99, 1.7e308, -1.7e308),
        }
    )


REFUSED = [
    pytest.param(array, value_range, id=f"{name}, {value_range}")
    for name, array in refused_arrays().items()
    for value_range in (None, (0.0, 1.0))
    if not (name == "huge span" and value_range)
]


def test_no_pictures():
    check_all(REFUSED, check_no_pictures)


def check_no_pictures(array: NDArray, value_range, folder: Path):
    for place in (folder / "x.npy", folder / "x.npz"):
        place.write_bytes(npy(array) if place.suffix == ".npy" else npz(images=array))
        refusal(lambda place=place: open_images(ImageDataConfig(data=str(place), value_range=value_range), 0), place.name)


CLIPS = [
    pytest.param(array, id=name)
    for name, array in (
        refused_arrays()
        | typed()
        | {"clips, channels of 2": np.zeros((3, 4, 2, 5, 5), np.uint8), "beyond": np.full((4, 3, 5, 5), 1.5)}
    ).items()
]


def test_clips():
    """What is no array of clips of uint8 or of floats in [0, 1] is refused; what is one is read as it is."""
    check_all(CLIPS, check_clips)


def check_clips(array: NDArray, folder: Path):
    (folder / "x.npy").write_bytes(npy(array))
    config = VideoDataConfig(data=str(folder / "x.npy"), test_fraction=0.0)
    data = outcome(lambda: open_videos(config, 0), "x.npy")
    if isinstance(data, VideoData):
        assert array.ndim in (4, 5)
        assert array.dtype == np.uint8 or (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1)
        assert sum(data.train[i]["clip"].double().sum() for i in range(len(data.train))) == pytest.approx(
            float(array.sum()), rel=1e-5
        )


def steps(count: int = 12, **changed: object) -> dict[str, object]:
    generator = np.random.default_rng(1)
    whole = {
        "observations": generator.normal(size=(count, 3)),
        "actions": generator.normal(size=(count, 1)),
        "states": generator.normal(size=(count, 2)),
        "episode": np.arange(count) // 6,
    }
    return {name: value for name, value in (whole | changed).items() if value is not None}


def bad_episodes() -> dict[str, dict[str, object]]:
    numbers = steps()
    cases = {f"no {key}": steps(**{key: None}) for key in ("observations", "actions")}
    for key in ("observations", "actions", "states"):
        array = np.asarray(numbers[key])
        poisoned = {what: array.copy() for what in ("NaN", "infinity")}
        poisoned["NaN"][5, 0], poisoned["infinity"][7, 0] = np.nan, np.inf
        cases |= {f"{what} in {key}": steps(**{key: values}) for what, values in poisoned.items()}
        cases |= {
            f"{key} of {what}": steps(**{key: values})
            for what, values in {
                "float32's overflow": array * 1e300,
                "complex": array.astype(complex),
                "text": array.astype(str),
                "one row less": array[:-1],
                "one row more": np.concatenate([array, array[:1]]),
                "no rows": array[:0],
                "no axes": np.float64(1),
                "6 axes": array.reshape(12, 1, 1, 1, 1, -1),
                "no columns": array[:, :0],
                "dates": array.astype("M8[s]"),
                "objects": array.astype(object),
            }.items()
        }
    cases |= {
        "episode too short": steps(episode=np.arange(11) // 6),
        "episode of NaN": steps(episode=np.full(12, np.nan)),
        "episode that comes back": steps(episode=np.arange(12) % 2),
        "episode as a matrix": steps(episode=np.zeros((12, 2))),
        "one episode": steps(episode=np.zeros(12)),
        "episodes of one step": steps(episode=np.arange(12)),
        "nothing": {},
        "pictures beyond [0, 1]": steps(observations=np.full((12, 4, 4), 2.0)),
        "pictures of 2 channels": steps(observations=np.zeros((12, 2, 4, 4))),
        "pictures of int64": steps(observations=np.full((12, 4, 4), 255)),
        "unknown names": {"obs": np.zeros((3, 2)), "act": np.zeros(3)},
    }
    return cases


EPISODES = [pytest.param(part, id=name) for name, part in bad_episodes().items()]


def test_bad_episodes():
    check_all(EPISODES, check_bad_episodes)


def check_bad_episodes(part: dict[str, object], folder: Path):
    named = ("x.npz", "episode 0", "episode", "history")
    if not any(np.asarray(value).dtype == object for value in part.values()):
        (folder / "x.npz").write_bytes(npz(**part))
        config = TrajectoryDataConfig(data=str(folder / "x.npz"), history=2)
        _refused_or_whole(outcome(lambda: open_trajectories(config, 0), *named), part)
    config = TrajectoryDataConfig(data="object", history=2, test_fraction=0.0)
    _refused_or_whole(outcome(lambda: open_trajectories(config, 0, source=[part]), *named), part)


def _refused_or_whole(data: object, part: dict[str, object]) -> None:
    """`episode` of one number, given for a single list entry, is fine: then the numbers are those that were given."""
    if not isinstance(data, UserError):
        assert isinstance(data, TrajectoryData)
        np.testing.assert_allclose(
            data.train.episodes.observations.reshape(12, -1), np.reshape(part["observations"], (12, -1)), rtol=1e-6
        )
        assert np.isfinite(data.train.episodes.actions).all()


# --- Files that are damaged, lie or explode -------------------------------------------------------------------------------


def labelled() -> bytes:
    return npz(images=NUMBERS, labels=np.arange(COUNT) % 2)


DAMAGED = [
    pytest.param(name, content, id=f"{name}: {damage}")
    for number, (name, original) in enumerate(
        {
            "x.npy": npy(NUMBERS),
            "x.npz": labelled(),
            "stored.npz": archive(("x.npy", npy(NUMBERS)), compression=zipfile.ZIP_STORED),
        }.items()
    )
    for damage, content in [("none", original), *mutations(original, seed=100 + number, flips=40, header=128)]
]


def test_damaged_file():
    check_all(DAMAGED, check_damaged_file)


def check_damaged_file(name: str, content: bytes, folder: Path):
    (folder / name).write_bytes(content)
    config = ImageDataConfig(data=str(folder / name), test_fraction=0.0, image_size=(16, 16))
    data = outcome(lambda: open_images(config, 0), name)
    if isinstance(data, ImageData) and name.endswith(".npz"):  # checksums: what is read is what was written
        given = np.concatenate([data.train[i]["image"].numpy() for i in range(len(data.train))])
        np.testing.assert_array_equal(given, NUMBERS)
    elif isinstance(data, ImageData):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = np.load(folder / name)
        assert len(data.train) == len(wanted)


def lying_files() -> dict[str, tuple[str, bytes]]:
    body = bytes(432)
    headers = {
        "more than there is": "(60, 80, 90)",
        "petabytes": "(1000000, 100000, 100000)",
        "more than 64 bits": "(99999999999, 99999999999, 9)",
        "negative": "(-6, 8, 9)",
        "two negatives": "(-6, -8, 9)",
        "a word": "'x'",
        "a call": "(__import__('os').getpid(), 8, 9)",
        "floats": "(6.0, 8, 9)",
        "nested": "((6,), 8, 9)",
        "too deep": "(" * 3000 + ")" * 3000,
        "open": "(6, 8,",
        "none": "None",
        "bools": "(True, True, True)",
    }
    types = [
        "|O",
        "O8",
        "|V0",
        "x",
        "f8, f8",
        "<U0",
        "<i3",
        ">f99",
        "",
        "|b1\x00",
        [("a", "|u1"), ("a", "|u1")],
        ("|u1", (2, 2)),
    ]
    content = {f"shape {what}": header(shape) + body for what, shape in headers.items()}
    content |= {f"type {dtype!r}": header("(6, 8, 9)", dtype) + body for dtype in types}
    content |= {f"order {order}": header("(6, 8, 9)", order=order) + body for order in ("None", "2", "'x'", "")}
    content["version 9"] = replaced(npy(NUMBERS), 6, b"\x09")
    content["header of 4 GB"] = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}"
    content["pickle"] = b"\x80\x04N."
    content["pickled objects"] = npy(np.array([None, {}, 3], dtype=object), pickled=True)
    content["text"] = b"This is no array."
    content["a .npz"] = labelled()
    cases = {f"npy, {name}": ("x.npy", text) for name, text in content.items()}
    cases |= {f"npz, {name}": ("x.npz", archive(("x.npy", text))) for name, text in content.items()}
    bomb = header(f"({1 << 33},)") + bytes(1 << 22)
    cases |= {
        "a .npy as .npz": ("x.npz", npy(NUMBERS)),
        "empty archive": ("x.npz", archive()),
        "a picture in a .npz": ("x.npz", archive(("x.png", b"\x89PNG"))),
        "names in two cases": ("x.npz", npz(x=NUMBERS, X=NUMBERS)),
        "a name twice": ("x.npz", archive(("x.npy", npy(NUMBERS)), ("x.npy", npy(NUMBERS[:2])))),
        "nothing known": ("x.npz", npz(a=NUMBERS, b=NUMBERS)),
        "no labels of the test part": ("x.npz", npz(x_train=NUMBERS, x_test=NUMBERS, y_train=np.arange(COUNT))),
        "no test part of the labels": ("x.npz", npz(x_test=NUMBERS, y_test=np.arange(COUNT))),
        "parts of two sizes": ("x.npz", npz(x_train=NUMBERS, x_test=NUMBERS[:, :4])),
        "labels too few": ("x.npz", npz(x=NUMBERS, y=np.arange(COUNT - 1))),
        "labels too many": ("x.npz", npz(x=NUMBERS, y=np.arange(COUNT + 1))),
        "labels of no axis": ("x.npz", npz(x=NUMBERS, y=np.array(3))),
        "labels of two shapes": (
            "x.npz",
            npz(x_train=NUMBERS, x_test=NUMBERS, y_train=np.arange(COUNT), y_test=np.ones((COUNT, 2))),
        ),
        "labels of NaN": ("x.npz", npz(x=NUMBERS, y=np.where(np.arange(COUNT) == 3, np.nan, 1.0))),
        "labels of infinity": ("x.npz", npz(x=NUMBERS, y=np.where(np.arange(COUNT) == 3, np.inf, 1.0))),
        "labels of complex numbers": ("x.npz", npz(x=NUMBERS, y=np.arange(COUNT) * 1j)),
        "labels of bytes": ("x.npz", npz(x=NUMBERS, y=np.array([b"\xff", b"a"] * 3))),
        "labels of 3 axes": ("x.npz", npz(x=NUMBERS, y=np.zeros((COUNT, 2, 2)))),
        "labels of any numbers": ("x.npz", npz(x=NUMBERS, y=np.arange(2 * COUNT).reshape(COUNT, 2))),
        "a bomb": ("x.npz", archive(("x.npy", bomb))),
        "a directory's size that lies": ("x.npz", _claims(archive(("x.npy", bomb)), 1 << 44)),
        "encrypted": ("x.npz", _flagged(archive(("x.npy", npy(NUMBERS))), 1)),
        "unknown compression": ("x.npz", _method(archive(("x.npy", npy(NUMBERS))), 99)),
    }
    return cases


def _claims(content: bytes, size: int) -> bytes:
    """An archive whose directory claims that its only member unpacks to `size` (a 32-bit field, at most 4 GB)."""
    return replaced(content, content.rindex(b"PK\x01\x02") + 24, struct.pack("<I", min(size, 2**32 - 2)))


def _flagged(content: bytes, flag: int) -> bytes:
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content = replaced(content, content.index(mark) + place, struct.pack("<H", flag))
    return content


def _method(content: bytes, method: int) -> bytes:
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content = replaced(content, content.index(mark) + place, struct.pack("<H", method))
    return content


LYING = [pytest.param(*case, id=name) for name, case in lying_files().items()]


def test_lying_file():
    check_all(LYING, check_lying_file)


def check_lying_file(name: str, content: bytes, folder: Path):
    (folder / name).write_bytes(content)
    place = str(folder / name)
    named = (name,)
    refusal(lambda: open_images(ImageDataConfig(data=place), 0), *named)
    refusal(lambda: open_videos(VideoDataConfig(data=place), 0), *named)
    refusal(lambda: open_trajectories(TrajectoryDataConfig(data=place), 0), *named)


def idx_files() -> dict[str, tuple[bytes, bool]]:
    """What the file holds, and whether its name says that it is compressed."""
    sound = idx(NUMBERS)
    damaged = {damage: content for damage, content in mutations(sound, seed=7, flips=8, header=16)}
    claims = {
        f"claims {shape}": idx(NUMBERS, shape=shape)
        for shape in ((7, 8, 9), (5, 8, 9), (2**32 - 1,) * 3, (2**32 - 1,) * 200, (0, 8, 9), ())
    }
    kinds = {f"type {kind:#x}": idx(NUMBERS, kind=kind) for kind in (0, 1, 7, 9, 10, 11, 12, 13, 14, 255)}
    both = (
        {
            "sound": sound,
            "empty": b"",
            "text": b"text",
            "a bomb": idx(np.zeros((1 << 10, 64, 64), np.uint8), shape=(1 << 24, 64, 64)),
        }
        | damaged
        | claims
        | kinds
    )
    plain = {f"{what}, plain": (content, False) for what, content in both.items()}
    return plain | {f"{what}, gz": (gzip.compress(content, 1), True) for what, content in both.items()} | {
        "gz that is none": (sound, True),
        "gz cut": (gzip.compress(sound)[:-9], True),
        "gz with a wrong checksum": (gzip.compress(sound)[:-8] + bytes(8), True),
        "gz twice": (gzip.compress(gzip.compress(sound)), True),
    }


IDX = [pytest.param(*case, id=name) for name, case in idx_files().items()]


def test_idx():
    check_all(IDX, check_idx)


def check_idx(content: bytes, zipped: bool, folder: Path):
    name = "train-images-idx3-ubyte" + (".gz" if zipped else "")
    (folder / name).write_bytes(content)
    data = outcome(lambda: open_images(ImageDataConfig(data=str(folder), test_fraction=0.0), 0), name, "array", "Picture")
    if isinstance(data, ImageData):
        content = gzip.decompress(content) if zipped else content
        kinds = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
        wanted = np.frombuffer(content, kinds[content[2]], offset=4 + 4 * content[3])
        assert len(data.train) == int.from_bytes(content[4:8], "big")
        assert sum(data.train[i]["image"].numel() for i in range(len(data.train))) == wanted.size


SOURCES = [
    None,
    3,
    "text",
    b"bytes",
    [1, 2],
    {"a": 1},
    object(),
    np.zeros((4, 4)),
    np.array(["a"]),
    [np.zeros(3)],
    (1, 2, 3),
    [None],
    [[]],
    iter([]),
]


@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda source: type(source).__name__)
def test_objects_from_python(source: object):
    """What is no data set of the kind that is read is refused, with the kind that is."""
    named = ("array", "atasets", "dict", "GraphCollection", "expected", "Labels")
    refusal(lambda: open_images(ImageDataConfig(data="object"), 0, source=source), *named)
    refusal(lambda: open_videos(VideoDataConfig(data="object"), 0, source=source), *named)
    refusal(lambda: open_trajectories(TrajectoryDataConfig(data="object"), 0, source=source), *named)


CASES = [*TYPED, *REFUSED, *CLIPS, *EPISODES, *DAMAGED, *LYING, *IDX, *SOURCES]
