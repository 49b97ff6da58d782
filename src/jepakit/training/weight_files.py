"""Weights as safetensors, with a checksum that tells when a bit has flipped on disk or on the way."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jepakit.errors import UserError
from jepakit.files import write_atomic

CHECKSUM = "crc32"  # the name of the checksum in the file's metadata; files of others have none


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", CHECKSUM: checksum(whole)}

    def write(place: Path) -> None:
        save_file(whole, place, metadata=metadata)
        _order_metadata(place)

    write_atomic(path, write)


def _order_metadata(path: Path) -> None:
    """Metadata in the order of its names: safetensors writes it in any, and equal runs are to write equal files."""
    with open(path, "r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        handle.seek(8)
        handle.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Errors: missing, cut short, damaged, or with a header that lies."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run has not finished (jepakit resume), or this is another folder.")
    try:
        with safe_open(path, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  not a dict
            written = (content.metadata() or {}).get(CHECKSUM)
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}. Copy or export it again.") from error
    if written is not None and written != checksum(tensors):
        raise UserError(f"{path} is damaged: its checksum does not fit. Copy or export it again.")
    return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of the names and bytes of contiguous tensors on the CPU."""
    found = 0
    for name in sorted(tensors):
        content = tensors[name].reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(content.data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"
