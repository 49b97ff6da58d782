"""Damaged picture files among good ones: each is read as it is, or refused by name; no other picture suffers."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console

from jepakit.cli import main
from jepakit.errors import UserError
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import ImageData, open_images
from jepakit.modalities.images.decoding import cover_size, loaded_size
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.images.inspection import inspect_images
from tests.robustness.mutations import mutations, replaced
from tests.robustness.oracle import check_all, outcome, refusal

HEIGHT, WIDTH = 20, 28
SIZE = (64, 64)
PNG = b"\x89PNG\r\n\x1a\n"


def scene(seed: int) -> Image.Image:
    """A smooth picture with some noise, RGB."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(rows / 3 + seed), np.cos(columns / 4), np.sin((rows + columns) / 5)]
    picture = 128 + 90 * np.stack(waves, axis=-1) + generator.normal(0, 6, (HEIGHT, WIDTH, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def stored() -> dict[str, bytes]:
    """One sound file of each kind, by its name."""
    picture = scene(1)
    layer = picture.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(picture.size))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    palette = picture.quantize(16)
    return {
        "a.jpg": encoded(picture, "JPEG", quality=90),
        "progressive.jpg": encoded(picture, "JPEG", quality=90, progressive=True),
        "rotated.jpeg": encoded(picture, "JPEG", quality=90, exif=rotated, icc_profile=b"\x00" * 128),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", quality=90),
        "grey.jpg": encoded(picture.convert("L"), "JPEG", quality=90),
        "a.png": encoded(picture, "PNG"),
        "alpha.png": encoded(layer, "PNG"),
        "grey-alpha.png": encoded(layer.convert("LA"), "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=3),
        "bits.png": encoded(picture.convert("1"), "PNG"),
        "moving.gif": encoded(palette, "GIF", save_all=True, append_images=[scene(2).quantize(16)]),
        "a.bmp": encoded(picture, "BMP"),
        "a.tif": encoded(picture, "TIFF"),
        "lzw.tiff": encoded(picture, "TIFF", compression="tiff_lzw"),
        "deep.tif": encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        "a.webp": encoded(picture, "WEBP", quality=80),
        "lossless.webp": encoded(layer, "WEBP", lossless=True),
        "a.ppm": encoded(picture, "PPM"),
        "a.pgm": encoded(picture.convert("L"), "PPM"),
        "a.pbm": encoded(picture.convert("1"), "PPM"),
    }


DAMAGED = {
    name: [
        pytest.param(name, content, id=f"{name}: {damage}")
        for damage, content in [("none", original), *mutations(original, seed=number, flips=7)]
    ]
    for number, (name, original) in enumerate(stored().items())
}


def reference(content: bytes) -> NDArray[np.float64] | None:
    """Pillow's own reading as `[height, width, 3]` in [0, 1], laid on white; None where Pillow cannot decode it, or a PNG's
    checksums do not fit."""
    if content.startswith(PNG) and not sound_png(content):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                with contextlib.suppress(Exception):
                    image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I"):
                    grey = np.asarray(image).astype(np.float64) / 65535
                    return np.repeat(grey[..., None], 3, axis=2)
                layer = np.asarray(image.convert("RGBA")).astype(np.float64) / 255
        except Exception:
            return None
    return layer[..., :3] * layer[..., 3:] + 1 - layer[..., 3:]


def sound_png(content: bytes) -> bool:
    """Whether the checksum of every chunk that makes the picture fits."""
    stream = io.BytesIO(content[len(PNG) :])
    while len(head := stream.read(8)) == 8:
        body, checksum = stream.read(int.from_bytes(head[:4], "big")), stream.read(4)
        if head[4:] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            if zlib.crc32(head[4:] + body) != int.from_bytes(checksum, "big"):
                return False
    return True


def opened(folder: Path, policy: str) -> ImageData:
    config = ImageDataConfig(data=str(folder), image_size=SIZE, channels=3, test_fraction=0.0, on_bad_file=policy)
    return open_images(config, seed=0)


def pixels(data: ImageData, index: int) -> NDArray[np.float64]:
    image = data.train[index]["image"].numpy()
    return image.transpose(1, 2, 0).astype(np.float64) / (255 if image.dtype == np.uint8 else 1)


GOOD = {f"good-{number}.png": encoded(scene(10 + number), "PNG") for number in range(1)}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(name: str):
    check_all(DAMAGED[name], check_damaged_file)


def check_damaged_file(name: str, content: bytes, folder: Path):
    for good, sound in GOOD.items():
        (folder / good).write_bytes(sound)
    (folder / name).write_bytes(content)
    expected = {good: reference(sound) for good, sound in GOOD.items()} | {name: reference(content)}

    data = outcome(lambda: opened(folder, "skip"), name)
    assert isinstance(data, ImageData)
    found = [Path(path).name for path in data.train.paths or []]
    bad = [Path(file.path).name for file in data.bad_files]
    assert sorted(found + bad) == sorted(expected), "a file is lost"
    assert set(found) >= set(GOOD)
    for index, file in enumerate(found):
        wanted = expected[file]
        assert wanted is not None, f"{file} was read, Pillow cannot"
        given = pixels(data, index)
        assert np.isfinite(given).all()
        assert given.shape[:2] == loaded_size(*wanted.shape[:2], cover_size(SIZE))
        assert given.shape != wanted.shape or np.abs(given - wanted).max() < 2 / 255

    strict = outcome(lambda: opened(folder, "error"), name)
    assert isinstance(strict, UserError) == bool(bad)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, interlaced: int = 0, extra: bytes = b"") -> bytes:
    """A PNG written by hand, true or not."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return PNG + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bad_contents() -> dict[str, tuple[str, bytes]]:
    """File name and content of pictures that are none, or that would take too much."""
    sound = stored()
    bombs = {
        "PNG that claims 50,000 x 50,000": ("x.png", png(50_000, 50_000, 8, 2, bytes(1000))),
        "PNG that claims 2^31 - 1 squared": ("x.png", png(2**31 - 1, 2**31 - 1, 8, 2, bytes(1000))),
        "PNG with a text of 64 MB": (
            "x.png",
            png(1, 1, 8, 0, bytes(2), extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        ),
        "PNG of no width": ("x.png", png(0, 5, 8, 0, bytes(5))),
        "BMP that claims 65,000 x 65,000": ("x.bmp", replaced(sound["a.bmp"], 18, struct.pack("<ii", 65_000, 65_000))),
        "BMP of negative width": ("x.bmp", replaced(sound["a.bmp"], 18, struct.pack("<ii", -28, 20))),
        "GIF that claims 65,535 x 65,535": ("x.gif", replaced(sound["moving.gif"], 6, b"\xff" * 4)),
        "PPM that claims 10^5 x 10^5": ("x.ppm", b"P6 100000 100000 255\n" + bytes(100)),
        "PPM of 10^30 columns": ("x.ppm", b"P6 " + b"9" * 30 + b" 1 255\n" + bytes(100)),
        "PGM of 0 grey values": ("x.pgm", b"P5 2 2 0\n" + bytes(4)),
        "JPEG that claims 65,500 x 65,500": (
            "x.jpg",
            replaced(sound["a.jpg"], _frame(sound["a.jpg"]), struct.pack(">HH", 65500, 65500)),
        ),
    }
    texts = {
        f"text named {name}": (name, b"This is no picture.\n")
        for name in ("x.png", "x.jpg", "x.gif", "x.tif", "x.webp", "x.bmp", "x.ppm")
    }
    empty = {f"nothing in {name}": (name, b"") for name in ("x.png", "x.jpg", "x.gif", "x.tiff", "x.webp", "x.bmp", "x.pbm")}
    others = {
        "HTML named .jpg": ("x.jpg", b"<!DOCTYPE html><html><body>404</body></html>"),
        "SVG named .png": ("x.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        "PDF named .jpg": ("x.jpg", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF"),
        "EPS named .tif": ("x.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/x) (w) file\n"),
        "git-lfs pointer": ("x.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "NaN pixels": ("x.tif", encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")),
        "infinite pixels": ("x.tif", encoded(Image.fromarray(np.full((4, 4), np.inf, np.float32)), "TIFF")),
        "pixels of unknown range": (
            "x.tif",
            encoded(Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4) * 10**6), "TIFF"),
        ),
    }
    return bombs | texts | empty | others


def _frame(jpeg: bytes) -> int:
    """Where a baseline JPEG says its height and width."""
    return jpeg.index(b"\xff\xc0") + 5


BAD = [pytest.param(*case, id=name) for name, case in bad_contents().items()]


def test_no_picture():
    check_all(BAD, check_no_picture)


def check_no_picture(name: str, content: bytes, folder: Path):
    (folder / "good.png").write_bytes(GOOD["good-0.png"])
    (folder / name).write_bytes(content)
    refusal(lambda: opened(folder, "error"), name)
    data = outcome(lambda: opened(folder, "skip"), name)
    assert [Path(path).name for path in data.train.paths] == ["good.png"]
    assert [Path(file.path).name for file in data.bad_files] == [name]
    (folder / "good.png").unlink()
    refusal(lambda: opened(folder, "skip"), name)


def sound_contents() -> dict[str, bytes]:
    """Odd, but sound: to be read, and rightly."""
    picture, files = scene(3), stored()
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    layer = picture.convert("RGBA")
    turned = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned[f"turned {orientation}.jpg"] = encoded(picture, "JPEG", exif=exif)
    sized = {
        f"{mode} {width} x {height}.{ending}": encoded(picture.resize((width, height)).convert(mode), kind)
        for width, height in ((1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 301), (301, 3))
        for mode, ending, kind in (
            ("RGB", "png", "PNG"),
            ("L", "png", "PNG"),
            ("RGB", "jpg", "JPEG"),
            ("1", "pbm", "PPM"),
            ("L", "gif", "GIF"),
        )
    }
    modes = {
        f"{mode}.{ending}": encoded(picture.convert(mode), kind)
        for mode, ending, kind in (
            ("1", "tif", "TIFF"),
            ("P", "png", "PNG"),
            ("P", "gif", "GIF"),
            ("P", "bmp", "BMP"),
            ("LA", "tif", "TIFF"),
            ("RGBA", "webp", "WEBP"),
            ("RGBA", "tif", "TIFF"),
            ("CMYK", "tif", "TIFF"),
            ("YCbCr", "tif", "TIFF"),
            ("LAB", "tif", "TIFF"),
        )
    }
    named = {
        "PNG.jpg": files["a.png"],
        "JPEG.png": files["a.jpg"],
        "GIF.webp": files["moving.gif"],
        "UPPER.JPG": files["a.jpg"],
    }
    special = {
        "no end.png": encoded(picture, "PNG")[:-12],
        "interlaced.png": png(1, 1, 8, 2, b"\0\x10\x20\x30", interlaced=1),
        "big-endian.tif": encoded(deep, "TIFF"),
        "16 bits.png": encoded(deep, "PNG"),
        "16 bits.pgm": encoded(deep, "PPM"),
        "damaged EXIF.jpg": encoded(picture, "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff"),
        "nonsense profile.png": encoded(picture, "PNG", icc_profile=b"no profile"),
        "transparent.png": encoded(Image.new("RGBA", (5, 5), (9, 9, 9, 0)), "PNG"),
        "opaque.png": encoded(layer, "PNG"),
        "comment.gif": encoded(picture.quantize(8), "GIF", comment=b"x" * 3000),
    }
    return turned | sized | modes | named | special


SOUND = [pytest.param(*case, id=case[0]) for case in sound_contents().items()]


def test_odd_but_sound():
    check_all(SOUND, check_odd_but_sound)


def check_odd_but_sound(name: str, content: bytes, folder: Path):
    (folder / name).write_bytes(content)
    data = outcome(lambda: opened(folder, "error"), name)
    assert isinstance(data, ImageData), data
    given, wanted = pixels(data, 0), reference(content)
    assert wanted is not None
    assert given.shape[:2] == loaded_size(*wanted.shape[:2], cover_size(SIZE))
    assert given.shape != wanted.shape or np.abs(given - wanted).max() < 2 / 255
    batch = ImageInputs.of(data).prepare([data.train[0]])
    assert batch.shape == (1, 3, *SIZE)
    assert bool(batch.isfinite().all())


NAMES = [
    "naïve café.png",
    "日本語.png",
    "😀🎉.png",
    "new\nline.png",
    "tab\there.png",
    "quote's\".png",
    "semi;colon,comma.png",
    " .png",
    "-rf.png",
    "--help.png",
    "%s%d{0}.png",
    "[bold]rich.png",
    "[nonsense.png",
    "C:\\x.png",
    "a" * 251 + ".png",
    "\udcff\udc80.png",
    "x.png.png",
    "x..png",
    "~.png",
    "$HOME.png",
    "*.png",
    "?.png",
    "\x1b[31mred.png",
    "\u202egnp.x.png",
    "e\u0301.png",
    "\u00e9.png",
    "PNG.PNG",
]


def test_odd_name():
    check_all([pytest.param(name, id=ascii(name)) for name in NAMES], check_odd_name)


def check_odd_name(name: str, folder: Path):
    for part in (name.removesuffix(".png").removesuffix(".PNG")[:200], "other"):
        (folder / "data" / part).mkdir(parents=True)
        (folder / "data" / part / name).write_bytes(GOOD["good-0.png"])
    (folder / "data" / "other" / ("bad" + name[-200:])).write_bytes(b"no picture")
    data = outcome(lambda: opened(folder / "data", "skip"), "x")
    assert [Path(path).name for path in data.train.paths] == [name, name]
    assert set(data.classes) == {"other", Path(data.train.paths[0]).parent.name, Path(data.train.paths[1]).parent.name}
    assert outcome(lambda: opened(folder / "data", "skip"), "x").fingerprint == data.fingerprint
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    Console(file=screen).print(inspect_images(data.config, 0)[0].render())


def test_odd_names_on_the_command_line(folder: Path, capsys):
    for name in NAMES:
        (folder / "data" / f"class of {name[:200]}").mkdir(parents=True)
        (folder / "data" / f"class of {name[:200]}" / name).write_bytes(GOOD["good-0.png"])
    words = ["inspect", str(folder / "data"), "--picture", str(folder / "\udcff.png"), "--image-size", "16", "16"]
    assert main(words) == 0, capsys.readouterr().err
    assert "27" in capsys.readouterr().out


def test_folder_of_everything_else(folder: Path):
    """Links, loops, pipes, sockets, folders named like pictures: the sound file is found once a name, nothing hangs."""
    root = folder / "data"
    (root / "folder.png" / "empty" / "emptier").mkdir(parents=True)
    (root / "folder.png" / "good.png").write_bytes(GOOD["good-0.png"])
    (root / ".hidden.png").write_bytes(b"")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "x.png").write_bytes(b"")
    (root / "link.png").symlink_to(root / "folder.png" / "good.png")
    (root / "loop").symlink_to(root)
    (root / "folder.png" / "up").symlink_to("..")
    (root / "self.png").symlink_to("self.png")
    (root / "dangling.png").symlink_to(folder / "gone.png")
    (root / "null.png").symlink_to("/dev/null")
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)  # the address of a socket is short
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(here)
        data = outcome(lambda: opened(root, "skip"), "png")
    assert data.train.paths == [str(root / "folder.png" / "good.png"), str(root / "link.png")]
    bad = {Path(file.path).name for file in data.bad_files}
    assert bad == {"self.png", "dangling.png", "null.png", "zero.png", "pipe.png", "socket.png"}
    refusal(lambda: opened(root, "error"), "pipe.png")


def test_folder_that_is_closed(folder: Path, monkeypatch):
    """Tests may run as root, who may look into every folder: the refusal is played."""
    for name in ("open", "closed"):
        (folder / name).mkdir()
        (folder / name / "good.png").write_bytes(GOOD["good-0.png"])
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    refusal(lambda: opened(folder, "error"), "closed")
    data = outcome(lambda: opened(folder, "skip"), "closed")
    assert [file.path for file in data.bad_files] == [str(folder / "closed")]
    assert data.train.paths == [str(folder / "open" / "good.png")]
    refusal(lambda: opened(folder / "closed", "skip"), "closed")


@pytest.mark.parametrize("what", ["nothing", "empty folders", "hidden", "text", "file", "missing", "pipe", "dangling", ""])
def test_no_folder_of_pictures(what: str, folder: Path, monkeypatch):
    place = folder / "data"
    if what in ("empty folders", "hidden", "text"):
        (place / "a" / "b" / "c").mkdir(parents=True)
    elif what == "nothing":
        place.mkdir()
    elif what == "file":
        place.write_bytes(GOOD["good-0.png"])
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "dangling":
        place.symlink_to(folder / "gone")
    if what == "hidden":
        (place / "a" / ".x.png").write_bytes(GOOD["good-0.png"])
    elif what == "text":
        (place / "a" / "x.txt").write_text("text")
    elif what == "":
        place = Path("")
        monkeypatch.chdir(folder)
    for policy in ("error", "skip"):
        refusal(lambda policy=policy: opened(place, policy), str(place))


CASES = [*(case for cases in DAMAGED.values() for case in cases), *BAD, *SOUND, *NAMES]
