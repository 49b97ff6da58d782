"""Checkpoints, `checkpoints/step-00000100/`: written by all ranks together, read back on any number of them.

Weights and optimiser state go by their names, whole or in shards, through `torch.distributed.checkpoint` (`*.distcp` and
`.metadata`); `state.pt` holds what is the same on all ranks, `rank-0.pt` and so on each rank's random state.
"""

from __future__ import annotations

import enum
import math
import os
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepakit.collectives import rank, world_size
from jepakit.errors import UserError
from jepakit.files import UNFINISHED
from jepakit.training.distributed import is_main, wait_for_all
from jepakit.training.optimizer import optimizer_name

FORMAT = 2
UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, AssertionError,
    MemoryError, NotImplementedError, ImportError, struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip


def write_checkpoint(path: Path, system: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; every rank calls this, rank 0 moves what they wrote to its place.

    Args:
        path: `.../step-00000100`, on a disk that all ranks share.
        state: the rest, the same on all ranks: tensors, numbers, words, and dicts of them.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        wait_for_all()
        _save_tensors(temporary, named_tensors(system, optimizer))
        written = [*temporary.glob(f"__{rank()}_*.distcp"), *([temporary / ".metadata"] if is_main() else [])]
        checksums = {file.name: _checksum(file) for file in written}
        _save(temporary / f"rank-{rank()}.pt", {**random_state(), "checksums": checksums})
        wait_for_all()
        if is_main():
            written_by = {"format": FORMAT, "ranks": world_size(), "optimizer": optimizer_name(optimizer)}
            _save(temporary / "state.pt", {**written_by, **state})
            remove_checkpoint(path)
            os.replace(temporary, path)
        wait_for_all()
    finally:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint. It loses its name first: one that is half removed must not be taken for a whole one."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        going = path.with_name(f".{path.name}.old{UNFINISHED}")
        shutil.rmtree(going, ignore_errors=True)
        os.replace(path, going)
        shutil.rmtree(going)


def restore_checkpoint(
    path: Path, system: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> dict[str, Any]:
    """Put weights, optimiser state and random state back where they were; returns the rest of the state.

    On as many ranks as have written it, each goes on with its own random numbers; on another number they stay as they are.
    Errors, before anything is changed: cut short, of another format, of other data, weights of another system or size,
    the state of another optimiser.
    """
    state = read_state(path)
    _check_files(path, range(rank(), state["ranks"], world_size()))
    saved, config = _saved_tensors(path), path.parents[1] / "config.yaml"
    anew = f"start a new one: jepakit pretrain --config {config} --out NEW."
    if state.get("fingerprint") != fingerprint:
        raise UserError(
            "The data changed since this run began (other files, labels or sizes): resuming would not continue the same "
            f"run. Put the data back, or {anew}"
        )
    sizes = {name: entry.size for name, entry in saved.items() if name.startswith("system.")}
    if sizes != {f"system.{name}": tensor.shape for name, tensor in system.state_dict().items()}:
        raise UserError(
            f"The checkpoint {path} does not fit {config}: its options were changed since. Put them back; to change a run, "
            f"{anew}"
        )
    before, now = state.get("optimizer", "adamw"), optimizer_name(optimizer)  # early checkpoints do not say it
    if before != now:
        raise UserError(
            f"The checkpoint {path} holds the state of {before!r}, and {config} asks for {now!r}: its momentum would be lost. "
            f"Put optimizer.name back; to change a run, {anew}"
        )
    for name, parameter in system.named_parameters():
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): _room_for(parameter, key.removeprefix(prefix), entry)
            for key, entry in saved.items()
            if key.startswith(prefix)
        }
    _load_tensors(path, named_tensors(system, optimizer))
    if state["ranks"] == world_size():
        set_random_state(_load(path / f"rank-{rank()}.pt", path))
    return state


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """One checkpoint in one process, its weights in full as `["system"]`. Errors: as of `restore_checkpoint`."""
    state = read_state(path)
    _check_files(path, range(state["ranks"]))
    saved = {name: entry for name, entry in _saved_tensors(path).items() if name.startswith("system.")}
    claimed = sum(math.prod(entry.size) * entry.properties.dtype.itemsize for entry in saved.values())
    if claimed > sum(file.stat().st_size for file in path.glob("*.distcp")):
        raise _unreadable(path, ValueError(f"its tensors claim {claimed:,} bytes, more than there are"))
    tensors = {
        name.removeprefix("system."): torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
        for name, entry in saved.items()
    }
    _load_tensors(path, {f"system.{name}": tensor for name, tensor in tensors.items()}, alone=True)
    return {**state, "system": tensors}


def read_state(path: Path) -> dict[str, Any]:
    """What is neither weight nor optimiser state; read with `weights_only`: no code in it runs."""
    state = _load(path / "state.pt", path)
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: this jepakit reads checkpoint format {FORMAT}, found {found!r}. Use the one that wrote it.")
    if not isinstance(state.get("ranks"), int):
        raise _unreadable(path, ValueError("it does not say how many processes wrote it"))
    return state


def named_tensors(system: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, buffers and optimiser state by name; a parameter that no step has used yet has no state."""
    tensors = {f"system.{name}": tensor for name, tensor in system.state_dict().items()}
    for name, parameter in system.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    return tensors


def all_finite(system: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether what is trained on this rank, and the optimiser's state of it, holds no NaN and no infinity."""
    tensors = [p.detach() for p in system.parameters()]
    tensors += [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    largest = torch._foreach_norm([t for t in local if t.numel()], torch.inf)
    return bool(torch.stack([size.float() for size in largest]).isfinite().all())


def _room_for(parameter: Tensor, key: str, entry: Any) -> Tensor:
    """Where a piece of optimiser state is read to: in the parameter's shards, or (the count of its steps) on each rank."""
    if key != "step":
        return torch.zeros_like(parameter, dtype=entry.properties.dtype)
    return torch.zeros(entry.size, dtype=entry.properties.dtype, device=parameter.device)


def random_state() -> dict[str, Tensor]:
    """The state of this rank's global random generators."""
    state = {"cpu": torch.random.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Put the generators back."""
    torch.random.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _save(path: Path, content: Any) -> None:
    with open(path, "wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())


def _load(path: Path, checkpoint: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as content:  # torch does not look at the checksums it wrote
            if content.testzip() is not None:
                raise ValueError(f"{path.name} is damaged: its checksum does not fit")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(path: Path, error: BaseException) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"{path} cannot be read ({reason}). Delete it to resume from the one before.")


# `torch.distributed.checkpoint` takes half a second to import; only what writes or reads a checkpoint waits for it.


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from torch.distributed import checkpoint as dcp

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process, as we say
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path), no_dist=world_size() == 1)
    except dcp.api.CheckpointException as error:  # a BaseException
        failure = _first_failure(error)
        raise failure from failure.__context__  # which may be the disk's own error


def _load_tensors(path: Path, tensors: dict[str, Tensor], alone: bool = False) -> None:
    from torch.distributed import checkpoint as dcp

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(tensors, storage_reader=_reader(path), no_dist=alone or world_size() == 1)
    except dcp.api.CheckpointException as error:
        raise _unreadable(path, _first_failure(error)) from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _first_failure(error: Any) -> BaseException:
    return next(iter(error.failures.values()))[0]


def _checksum(file: Path) -> int:
    found = 0
    with open(file, "rb") as handle:
        while block := handle.read(1 << 24):
            found = zlib.crc32(block, found)
    return found


def _check_files(path: Path, ranks: Iterable[int]) -> None:
    """Compare what these ranks wrote with the checksums they wrote beside it (early checkpoints have none)."""
    for number in ranks:
        known = _load(path / f"rank-{number}.pt", path).get("checksums", {})
        for name, written in known.items():
            try:
                if Path(name).name != name or _checksum(path / name) != written:
                    raise ValueError(f"{name} is damaged: its checksum does not fit")
            except UNREADABLE as error:
                raise _unreadable(path, error) from error


def _saved_tensors(path: Path) -> dict[str, Any]:
    """Size and type of each tensor in a checkpoint, by name."""
    try:
        return _reader(path).read_metadata().state_dict_metadata
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _reader(path: Path) -> Any:
    from torch.distributed.checkpoint import FileSystemReader

    class Reader(FileSystemReader):
        """Reads `.metadata`, which is a pickle, without running code in it."""

        # torch passes a rank, where each rank wrote a description of its own. Ours is one, whatever the arguments.
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:  # torch's signature
            with open(path / ".metadata", "rb") as handle:
                metadata = _MetadataUnpickler(handle).load()
            _check_description(metadata)
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(path)


def _check_description(metadata: Any) -> None:
    """Tensors only, in files of the checkpoint's own folder: torch unpickles, with all code in it, what is no tensor."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    other = [name for name, entry in metadata.state_dict_metadata.items() if type(entry) is not TensorStorageMetadata]
    if other:
        raise ValueError(f"{other[0]!r} in it is no tensor")
    for place in metadata.storage_data.values():
        if Path(place.relative_path).name != place.relative_path or getattr(place, "transform_descriptors", None):
            raise ValueError(f"it refers to {place.relative_path!r}, which is no file that a checkpoint holds")


DESCRIPTION = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}  # fmt: skip


def _enum_member(kind: Any, name: str) -> enum.Enum:
    """How Python before 3.11.4 pickles an enumeration's member: by `getattr`, of which this is all that is let through."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__):
        raise pickle.UnpicklingError(f"{name!r} of {kind!r} does not belong into a checkpoint's description")
    return kind[name]


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes that describe tensors, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if name in DESCRIPTION.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a checkpoint's description")
