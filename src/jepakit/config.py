"""A run's full configuration: sections of dataclasses, read and written as YAML, strict about names and types."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jepakit._version import __version__
from jepakit.errors import UserError, did_you_mean, shown
from jepakit.files import read_text
from jepakit.registry import load_system

if TYPE_CHECKING:
    from jepakit.training.config import HealthConfig, TrainingConfig

FORMAT = 1
OBJECT = "object"  # the name of data that was given as a Python object
SECTIONS = ("dataset", "model", "training", "health")
# What stands before an option that several sections have.
PREFIXES = {"dataset": "data", "model": "model", "training": "training", "health": "health"}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run. `dataset` is the config of the system's modality, `model` the system's own; no two
    sections share an option's name.

    `inputs` is no choice but a finding: what the data made the encoder expect. It is written with the rest, for the
    verbs that use the encoder later; a new run finds its own.
    """

    system: str
    dataset: Any
    model: Any
    training: TrainingConfig
    health: HealthConfig
    inputs: Any = None

    def section(self, option: str) -> str | None:
        """The section that holds an option, which may be said: `model.size`. Errors: several do, and none was said."""
        prefix, _, name = option.rpartition(".")
        holding = [
            section for section in SECTIONS
            if name in {f.name for f in fields(getattr(self, section))} and prefix in ("", PREFIXES[section])
        ]  # fmt: skip
        if len(holding) > 1:
            ways = " or ".join(f"{PREFIXES[section]}.{name}" for section in holding)
            raise UserError(f"{name!r} is an option of several parts of {self.system}. Say which: {ways}.")
        return holding[0] if holding else None

    def override(self, **options: Any) -> RunConfig:
        """A copy with some options changed; a typo names the nearest valid option."""
        if options.get("epochs") is not None:
            options.setdefault("steps", None)  # those of the run that is reproduced, which epochs are given instead of
        if options.get("fps") is not None and self.section("stride"):
            options.setdefault("stride", None)  # that of the recipe or of the run, which a rate is given instead of
        sections: dict[str, dict[str, Any]] = {}
        for option, value in options.items():
            section = self.section(option)
            if section is None:
                known = [f.name for name in SECTIONS for f in fields(getattr(self, name))]
                raise UserError(f"{option!r} is not an option of {self.system}. {did_you_mean(option, known)}")
            sections.setdefault(section, {})[option.rpartition(".")[2]] = value
        changed = {}
        for name, values in sections.items():
            current = to_plain(getattr(self, name))
            for option, value in values.items():
                nested = isinstance(value, dict) and isinstance(current[option], dict)
                current[option] = {**current[option], **value} if nested else to_plain(value)
            changed[name] = from_plain(type(getattr(self, name)), current, name)
        return dataclasses.replace(self, **changed)


def section_types(system: str) -> dict[str, type]:
    """The config class of each section of a run of `system`."""
    from jepakit.training.config import HealthConfig, TrainingConfig

    kind = load_system(system)
    return {
        "dataset": kind.modality.Config,
        "model": kind.Config,
        "training": TrainingConfig,
        "health": getattr(kind, "Health", HealthConfig),
    }


def clashing(kinds: Mapping[str, type]) -> set[str]:
    """Return the options that several sections have, by the sections' config classes."""
    names = [field.name for kind in kinds.values() for field in fields(kind)]
    return {name for name in names if names.count(name) > 1}


def default_config(system: str, data: str) -> RunConfig:
    """The defaults of a system: each section's own, with what the recipe changes of data and training."""
    kinds, recipe = section_types(system), load_system(system)
    training = kinds["training"](**recipe.training_defaults)
    return RunConfig(
        system=system,
        dataset=kinds["dataset"](data=data, **recipe.data_defaults),
        model=kinds["model"](),
        training=training,
        health=kinds["health"](),
    )


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML and JSON know."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """The reverse of `to_plain`, checked: unknown names and wrong types are named with their place."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a group of options, got {shown(value)}. Write name: value lines.")
        hints = typing.get_type_hints(kind)
        value = {name: _over_default(kind, name, item) for name, item in value.items()}
        known = {f.name for f in fields(kind)}
        for name in value:
            if name not in known:
                raise UserError(f"{where}.{str(name)[:80]} is not an option. {did_you_mean(str(name), known)}")
        missing = [f.name for f in fields(kind) if f.name not in value and _required(f)]
        if missing:
            raise UserError(f"{where}: the option {missing[0]!r} is missing. Add it.")
        return kind(**{name: _option(kind, hints[name], name, item, where) for name, item in value.items()})  # type: ignore[operator]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        for option in options[:-1]:
            try:
                return from_plain(option, value, where)
            except UserError:
                continue
        return from_plain(options[-1], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where}: {shown(value)} is not known. {did_you_mean(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {shown(value)}.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {shown(list(value))}.")
        return tuple(from_plain(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < sys.float_info.max:
            raise UserError(f"{where}: expected a finite number, got {shown(value)}.")
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is int and isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}: expected a number of at most 64 bits, got {shown(value)}.")
    if kind is Any or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise UserError(f"{where}: expected {kind.__name__}, got {shown(value)}.")


def _option(kind: Any, hint: Any, name: str, item: Any, where: str) -> Any:
    """An option's value, checked. Errors: also say what to write for one that once had another form (`changed`)."""
    try:
        return from_plain(hint, item, f"{where}.{name}")
    except UserError as error:
        advice = getattr(kind, "changed", {}).get(name)
        if advice is None:
            raise
        raise UserError(f"{error} Of {name}, {advice}.") from error


def _upgraded(kind: Any, values: Any) -> Any:
    """A section of a file in today's form, where its config knows earlier ones (`upgraded`)."""
    return kind.upgraded(values) if hasattr(kind, "upgraded") and isinstance(values, dict) else values


def _over_default(kind: Any, name: Any, item: Any) -> Any:
    """A part of which some options are given: the others are those that this config gives it, not the part's own."""
    factory = next((f.default_factory for f in fields(kind) if f.name == name), dataclasses.MISSING)
    if isinstance(item, dict) and factory is not dataclasses.MISSING:
        return {**to_plain(factory()), **item}
    return item


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML only: no tags, no aliases (a few of them make a billion values), and a key may stand once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not read; write the value itself", event)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"tags ({event.tag}) are not read; remove it", event)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]


def _refused(problem: str, place: Any) -> yaml.YAMLError:
    return yaml.YAMLError(f"{problem} (line {place.start_mark.line + 1})")


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)  # type: ignore[no-untyped-call]
        problem = None
        if not isinstance(key, str | int | float | None):
            problem = f"a name is a {type(key).__name__}: write a word"
        elif key in found:
            problem = f"the key {key!r} stands twice here: remove one"
        if problem is not None:
            raise _refused(problem, key_node)
        found[key] = loader.construct_object(value_node, deep=True)  # type: ignore[no-untyped-call]
    return found


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
# YAML 1.1 reads 1e-3, as people write it, as a word; YAML 1.2 and we read it as a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def write_config(path: Path, config: RunConfig) -> None:
    """Write a run's config as YAML, with the format's version."""
    plain = {"format": FORMAT, "jepakit": __version__, **to_plain(config)}
    path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_yaml(path: Path) -> Any:
    """What a plain YAML file holds. Errors: not YAML, or more of it than is read here (tags, aliases)."""
    try:
        return yaml.load(read_text(path), Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and numbers that are none are ValueErrors
        raise UserError(f"{path} is not a YAML file as this library reads it: {str(error)[:500]}. Check it there.") from error


def read_config(path: Path | str) -> RunConfig:
    """Read a run's config; `path` is the YAML file or the run folder that holds one.

    Errors: no such file, not YAML, another format's version, unknown options.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} does not exist. A run folder holds config.yaml; `jepakit pretrain` writes one. Check it.")
    plain = read_yaml(path)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        found = plain.get("format") if isinstance(plain, dict) else None
        raise UserError(f"{path}: this jepakit reads config format {FORMAT}, the file has {shown(found)}. Use its own.")
    unknown = set(plain) - {"format", "jepakit", "system", "inputs", *SECTIONS}
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise UserError(f"{path}: {shown(name)} is not a section. {did_you_mean(name, SECTIONS)}")
    system = str(plain.get("system", ""))
    try:
        inputs_type = load_system(system).modality.Inputs
        kinds = section_types(system)
        sections = {name: from_plain(kind, _upgraded(kind, plain.get(name, {})), name) for name, kind in kinds.items()}
        found = from_plain(inputs_type | None, plain.get("inputs"), "inputs")
        return RunConfig(system=system, inputs=found, **sections)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
