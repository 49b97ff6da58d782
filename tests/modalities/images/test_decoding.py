from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from jepakit.modalities.files.walk import find_files
from jepakit.modalities.images.decoding import (
    EXTENSIONS,
    UnreadableImage,
    cover_size,
    is_grey,
    loaded_size,
    read_header,
    read_image,
    with_channels,
)
from tests.modalities.photographs import EXIF_ORIENTATION, scene, write_odd

PICTURE = Image.fromarray(scene("moons", 24, 0))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_rgb_and_grey_are_read_exactly():
    colour = np.asarray(PICTURE)
    np.testing.assert_array_equal(read_image(encoded(PICTURE, "PNG")), colour.transpose(2, 0, 1))
    grey = PICTURE.convert("L")
    np.testing.assert_array_equal(read_image(encoded(grey, "PNG"))[0], np.asarray(grey))


def test_transparency_is_laid_on_white():
    layer = PICTURE.convert("RGBA")
    layer.putalpha(100)
    expected = np.asarray(PICTURE) * (100 / 255) + 255 * (155 / 255)
    assert np.abs(read_image(encoded(layer, "PNG")).transpose(1, 2, 0) - expected).max() <= 1
    grey = PICTURE.convert("LA")
    grey.putalpha(0)
    pixels = read_image(encoded(grey, "PNG"))
    assert pixels.shape[0] == 1
    assert (pixels == 255).all()


def test_transparent_colour_of_a_palette_is_white():
    palette = PICTURE.quantize(8)
    hidden = palette.getpixel((0, 0))
    pixels = read_image(encoded(palette, "PNG", transparency=hidden))
    covered = np.asarray(palette) == hidden
    assert (pixels[:, covered] == 255).all()
    np.testing.assert_array_equal(
        pixels[:, ~covered], np.asarray(palette.convert("RGB")).transpose(2, 0, 1)[:, ~covered]
    )


def test_cmyk_is_close_to_the_rgb_it_was_made_from():
    pixels = read_image(encoded(PICTURE.convert("CMYK"), "JPEG", quality=98)).transpose(1, 2, 0)
    assert np.abs(pixels.astype(int) - np.asarray(PICTURE)).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_every_level(kind):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = read_image(encoded(Image.fromarray(levels), kind))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[0], (levels / 65535).astype(np.float32))
    assert len(np.unique(pixels)) == 65536


def test_twelve_bit_tiff_is_scaled_by_twelve_bits():
    levels = np.array([[0, 4095], [2048, 1]])
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in levels.tolist())
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, len(packed))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + bytes(4)
    np.testing.assert_allclose(read_image(content)[0], levels / 4095, atol=1e-7)


def test_floats_outside_of_the_unit_interval_need_a_range():
    values = np.array([[0.0, 50.0], [100.0, 25.0]], dtype=np.float32)
    content = encoded(Image.fromarray(values), "TIFF")
    with pytest.raises(UnreadableImage, match="--value-range"):
        read_image(content)
    np.testing.assert_allclose(read_image(content, value_range=(0.0, 100.0))[0], values / 100)
    np.testing.assert_allclose(read_image(encoded(Image.fromarray(values / 100), "TIFF"))[0], values / 100)
    with pytest.raises(UnreadableImage, match="NaN"):
        read_image(encoded(Image.fromarray(values * np.nan), "TIFF"), value_range=(0.0, 1.0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    content = encoded(PICTURE, "JPEG", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    pixels = read_image(content)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
    header = read_header(content)
    assert (header.height, header.width) == pixels.shape[1:]


@pytest.mark.parametrize("number", range(7))
def test_header_agrees_with_the_pixels(tmp_path, number):
    path = str(write_odd(PICTURE, tmp_path / "odd", number))
    header, pixels = read_header(path), read_image(path)
    assert (header.height, header.width) == pixels.shape[1:] == (24, 32)
    assert header.grey == (len(pixels) == 1)
    assert header.bytes_per_pixel * 24 * 32 == pixels.nbytes


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_error_even_where_others_asked_for_leniency(kind, part, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(Image.fromarray(scene("roofs", 96, 0)), kind)
    with pytest.raises(UnreadableImage, match=r"kept\.jpg cannot be read as an image"):
        read_image(content[: int(part * len(content))], name="kept.jpg")


def test_a_decompression_bomb_is_refused():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    for read in (read_header, read_image):
        with pytest.raises(UnreadableImage, match="bomb"):
            read(bomb)


def test_text_and_missing_files_say_so(tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_text("no picture")
    with pytest.raises(UnreadableImage, match=r"fake\.png.*not an image of a known format"):
        read_header(str(fake))
    with pytest.raises(UnreadableImage, match="does not exist") as caught:
        read_image(str(tmp_path / "gone.png"))
    assert caught.value.path.endswith("gone.png")


@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore")  # Pillow warns about much of this
def test_damaged_files_give_a_picture_or_a_named_error(kind, flips, part):
    content = bytearray(encoded(PICTURE.resize((12, 9)), kind))
    for place, value in flips:
        content[int(place * len(content))] = value
    content = bytes(content[: max(1, round(part * len(content)))])
    with contextlib.suppress(UnreadableImage):
        pixels = read_image(content, cover=(16, 16))
        assert pixels.shape[0] in (1, 3)
        assert np.isfinite(pixels).all()
    with contextlib.suppress(UnreadableImage):
        read_header(content)


@given(st.integers(1, 5000), st.integers(1, 5000), st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_loaded_size_covers_without_enlarging(height, width, image_size):
    cover = cover_size(image_size)
    loaded = loaded_size(height, width, cover)
    assert all(
        1 <= new <= min(old, 2 * side) or new == 1
        for new, old, side in zip(loaded, (height, width), cover, strict=True)
    )
    for new, old, side in zip(loaded, (height, width), cover, strict=True):
        assert new >= min(old, side) - 1  # still covers what it covered
    if height <= cover[0] or width <= cover[1]:
        assert loaded == (min(height, 2 * cover[0]), min(width, 2 * cover[1]))


def test_reading_at_a_smaller_size():
    large = Image.fromarray(scene("moons", 300, 1))
    for kind in ("JPEG", "PNG"):
        pixels = read_image(encoded(large, kind), cover=(40, 40))
        assert pixels.shape == (3, 40, 53)
        expected = np.asarray(large.resize((53, 40), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_a_panorama_keeps_its_middle():
    ramp = np.tile(np.linspace(0, 255, 2000).astype(np.uint8), (50, 1))
    pixels = read_image(encoded(Image.fromarray(ramp), "PNG"), cover=(25, 25))
    assert pixels.shape == (1, 25, 50)
    assert abs(pixels.mean() - 127.5) < 2
    assert pixels[0, 0, -1] - pixels[0, 0, 0] < 20  # 100 of 2000 columns


def test_one_pixel_is_a_picture():
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), cover=(96, 96)).ravel().tolist() == [1, 2, 3]


def test_channels():
    colour = read_image(encoded(PICTURE, "PNG"))
    grey = with_channels(colour, 1)
    np.testing.assert_allclose(grey[0], np.asarray(PICTURE.convert("L")), atol=1)
    assert grey.dtype == np.uint8
    assert is_grey(with_channels(grey, 3))
    assert not is_grey(colour)
    np.testing.assert_allclose(with_channels(colour.astype(np.float32) / 255, 1) * 255, grey, atol=0.51)


def test_finding_images(tmp_path):
    for name in (
        "b/ü_猫.PNG",
        "a/deep/er/1.jpeg",
        "a/notes.txt",
        ".hidden/1.png",
        "a/._1.png",
        "__MACOSX/1.png",
        "0.tif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    images, others, _ = find_files(tmp_path, EXTENSIONS)
    assert images == ["0.tif", "a/deep/er/1.jpeg", "b/ü_猫.PNG"]
    assert others == 2  # notes.txt and a/._1.png
