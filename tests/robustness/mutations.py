"""Damages bytes as disks, networks and strangers do: deterministic, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

TIMES = int(os.environ.get("JEPAKIT_FUZZ", "1"))  # so many flipped bits for each that is asked for; see tests/thorough.py


def mutations(content: bytes, seed: int, flips: int = 12, header: int = 64) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file: cut short at every kind of offset, bits flipped in head and body, bytes lost or added."""
    generator = np.random.default_rng(seed)
    size = len(content)
    edges = {0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 33, size // 4, size // 2, size * 3 // 4, size - 12, size - 2, size - 1}
    for length in sorted(edge for edge in edges if 0 <= edge < size):
        yield f"cut to {length} bytes", content[:length]
    for part, low, high in (("head", 0, min(header, size)), ("body", min(header, size - 1), size)):
        for _ in range(TIMES * flips):
            place, bit = int(generator.integers(low, high)), int(generator.integers(8))
            yield f"bit {bit} of byte {place} flipped ({part})", replaced(content, place, bytes([content[place] ^ 1 << bit]))
    for filler in (b"\x00", b"\xff"):
        place = int(generator.integers(0, max(1, size - 32)))
        yield f"32 bytes of {filler.hex()} at {place}", replaced(content, place, filler * min(32, size - place))
    place = size // 3
    yield f"8 bytes lost at {place}", content[:place] + content[place + 8 :]
    yield f"8 bytes added at {place}", content[:place] + bytes(generator.integers(0, 256, 8, dtype=np.uint8)) + content[place:]
    yield "garbage behind", content + bytes(generator.integers(0, 256, 64, dtype=np.uint8))
    yield "zeros of the same length", bytes(size)
    yield "noise of the same length", bytes(generator.integers(0, 256, size, dtype=np.uint8))


def replaced(content: bytes, place: int, new: bytes) -> bytes:
    """`content` with the bytes from `place` on replaced."""
    return content[:place] + new + content[place + len(new) :]
