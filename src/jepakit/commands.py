"""Options of each verb on the command line, read off the verb's own signature and config classes (through tyro)."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from jepakit.config import PREFIXES, RunConfig, clashing, default_config, from_plain, read_config, section_types, to_plain
from jepakit.errors import UserError
from jepakit.registry import SYSTEMS, is_tuned, load_system


def run(verb: str, words: Sequence[str]) -> int:
    """Run a verb with the words that follow it; returns the exit status."""
    return {
        "pretrain": _pretrain,
        "resume": _resume,
        "finetune": _finetune,
        "evaluate": _evaluate,
        "embed": _embed,
        "export": _export,
        "report": _report,
        "inspect": _inspect,
        "pack": _pack,
        "act": _act,
        "collect": _collect,
        "plan-run": _plan_run,
    }[verb](list(words))


def _pretrain(words: list[str]) -> int:
    system, base = _chosen("pretrain", words, "jepakit pretrain i-jepa --data ./photos --out runs/a")
    _check_changed(system, words)
    asked: Any = tyro.cli(pretrain_options(system, base), args=words, prog=f"jepakit pretrain {system}")
    from jepakit.verbs.pretrain import run_config  # after the options: `--help` need not wait for it

    return _status(run_config(_run_of(system, asked), asked.out, init=asked.init))


def _finetune(words: list[str]) -> int:
    from jepakit.interop.load import load
    from jepakit.verbs.finetune import read_tuned_config, tune, tuned_name

    run, given = words.pop(0) if words and not words[0].startswith("-") else None, _value_of("--config", words)
    base = None if given is None else read_tuned_config(given)
    if base is not None and run is None:
        run = base.model.encoder
    model = None if run is None else load(run, _value_of("--which", words))  # type: ignore[arg-type]
    if model is None and not {"-h", "--help"} & set(words):
        raise UserError("finetune needs a run or weights: jepakit finetune runs/a --data ./photos --out runs/tuned")
    system = "finetuned-images" if model is None else tuned_name(model)
    if base is not None and _value_of("--epochs", words) is not None:
        base = base.override(steps=None)
    asked: Any = tyro.cli(finetune_options(system, base, model), args=words, prog="jepakit finetune RUN")
    if model is None or run is None:
        return 0
    return _status(tune(_run_of(system, asked), run, asked.out, model))


def finetune_options(system: str, base: RunConfig | None = None, model: Any = None) -> type:
    """A dataclass with all options of `finetune` for a model; `base` gives the defaults of a reproduced run."""
    from jepakit.verbs.finetune import finetune

    fields: list[Any] = [
        ("out", _described(Path, "The run folder to create.")),
        ("config", _described(Path | None, "A tuned run's config.yaml to reproduce; options override it."), None),
    ]
    if base is not None:
        shown = {field.name: getattr(base.model, field.name) for field in dataclasses.fields(load_system(system).Options)}
        base = dataclasses.replace(base, model=load_system(system).Options(**shown))
    expected = {} if model is None else model.inputs.options()
    options = _with_sections("Finetune", fields, system, base, {"model": load_system(system).Options}, expected)
    options.__doc__ = (inspect.getdoc(finetune) or "").partition("\n\nArgs:")[0]
    return options


def _plan_run(words: list[str]) -> int:
    from jepakit.verbs.plan_run import NO_DATA, plan_config, plan_run

    system, base = _chosen("plan-run", words, "jepakit plan-run i-jepa --size huge --gpus 64")
    own = [p for p in inspect.signature(plan_run).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "data"]
    hints = get_type_hints(plan_run)
    fields = [(p.name, hints[p.name], p.default) for p in own]
    options = _with_sections("PlanRun", fields, system, base or default_config(system, NO_DATA))
    options.__doc__ = inspect.getdoc(plan_run)
    asked: Any = tyro.cli(options, args=words, prog=f"jepakit plan-run {system}")
    plan_config(_run_of(system, asked), **{p.name: getattr(asked, p.name) for p in own if p.name != "config"})
    return 0


def _chosen(verb: str, words: list[str], example: str) -> tuple[str, RunConfig | None]:
    """The system that a verb's words name, by itself or by the run to reproduce, which is returned too."""
    system = words.pop(0) if words and not words[0].startswith("-") else None
    given = _value_of("--config", words)
    base = None
    if given is not None:
        base = read_config(given)
        if is_tuned(base.system):
            raise UserError(f"{given} is of a tuned run: reproduce it by jepakit finetune --config {given}.")
        if system not in (None, base.system):
            raise UserError(f"{given} is a run of {base.system!r}, not of {system!r}. Leave the system out.")
        system = base.system
        if _value_of("--epochs", words) is not None:
            base = base.override(steps=None)
    if system is None:
        if not {"-h", "--help"} & set(words):
            raise UserError(f"{verb} needs a system: {', '.join(SYSTEMS)}. {example}")
        system = "i-jepa"
    return system, base


def _check_changed(system: str, words: Sequence[str]) -> None:
    """Raise `UserError` for an option in a form that it once had, with today's."""
    for name, advice in getattr(load_system(system).Config, "changed", {}).items():
        option = f"--{name.replace('_', '-')}"
        if option in words and len([*itertools.takewhile(lambda word: not word.startswith("--"), _after(option, words))]) > 1:
            raise UserError(f"{option} takes one value: {advice}.")


def _after(option: str, words: Sequence[str]) -> Sequence[str]:
    return words[words.index(option) + 1 :]


def _run_of(system: str, asked: Any) -> RunConfig:
    # Through the checks that a file's options get: numbers on the command line may be infinite, too.
    parts = {name: from_plain(kind, to_plain(getattr(asked, name)), name) for name, kind in section_types(system).items()}
    return RunConfig(system=system, **parts)


def pretrain_options(system: str, base: RunConfig | None = None) -> type:
    """A dataclass with all options of `pretrain` for a system; `base` gives the defaults of a reproduced run."""
    fields: list[Any] = [
        ("out", _described(Path, "The run folder to create.")),
        ("init", _described(Path | None, "Weights to start from: a run or an exported folder."), None),
        ("config", _described(Path | None, "A run's config.yaml to reproduce; options override it."), None),
    ]
    options = _with_sections("Pretrain", fields, system, base)
    options.__doc__ = f"Pretrain {system}: {SYSTEMS[system].about}."
    return options


def _with_sections(
    name: str,
    fields: Sequence[Any],
    system: str,
    base: RunConfig | None,
    kinds: Mapping[str, type] | None = None,
    expected: Mapping[str, Any] | None = None,
) -> type:
    """A dataclass of a verb's own options and all those of a run; without `base` --data must be given.

    kinds: classes that stand for those of a section; expected: further defaults of the data.
    """
    fields, defaults = list(fields), base or default_config(system, "unset")
    sections = {**section_types(system), **(kinds or {})}
    twice = clashing(sections)
    for section, kind in sections.items():
        kind = _with_prefix(kind, twice, PREFIXES[section])
        if section == "dataset" and base is None:
            kind = _with_defaults(kind, {**load_system(system).data_defaults, **(expected or {})})
        flat = Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        if section == "dataset" and base is None:
            fields.insert(1, (section, flat))
        else:
            default = getattr(defaults, section)
            default = default if isinstance(default, kind) and (base or section not in (kinds or {})) else kind()
            fields.append((section, flat, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)


def _with_prefix(kind: type, names: Set[str], prefix: str) -> type:
    """A config class whose options of these names are given as `--PREFIX.NAME`."""
    hints = get_type_hints(kind)
    fields: list[Any] = []
    for field in dataclasses.fields(kind):
        if field.name in names:
            named = Annotated[hints[field.name], tyro.conf.arg(name=f"{prefix}.{field.name}")]  # type: ignore[valid-type]
            default = dataclasses.field(default=field.default, default_factory=field.default_factory)  # type: ignore[call-overload]
            fields.append((field.name, named, default))
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True) if fields else kind


def _with_defaults(kind: type, changed: Mapping[str, Any]) -> type:
    """A config class with other defaults; an instance cannot carry them while `data` is yet to be asked for."""
    hints = get_type_hints(kind)
    fields = [(name, hints[name], dataclasses.field(default=value)) for name, value in changed.items()]
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True) if fields else kind


def _described(kind: Any, help: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=help)]


def _resume(words: list[str]) -> int:
    from jepakit.verbs.pretrain import resume

    return _status(_call(resume, "resume", words, hidden=("source",)))


def _evaluate(words: list[str]) -> int:
    from jepakit.verbs.evaluate import evaluate

    types = {"run": str | Path, "data": str | None, "evaluators": tuple[str, ...] | None}
    _call(evaluate, "evaluate", words, types)
    return 0


def _embed(words: list[str]) -> int:
    from jepakit.verbs.embed import embed

    embeddings = _call(embed, "embed", words, {"data": str})
    print(f"{len(embeddings):,} embeddings of shape {list(embeddings.shape[1:])}.")
    return 0


def _export(words: list[str]) -> int:
    from jepakit.verbs.export import export

    print(_call(export, "export", words))
    return 0


def _report(words: list[str]) -> int:
    from jepakit.verbs.report import report

    print(_call(report, "report", words, {"run": str | Path}))
    return 0


def _inspect(words: list[str]) -> int:
    from jepakit.verbs.inspect import inspect as inspect_data

    _call(inspect_data, "inspect", words, {"data": str})
    return 0


def _pack(words: list[str]) -> int:
    from jepakit.verbs.pack import pack

    print(_call(pack, "pack", words, {"data": str}))
    return 0


def _collect(words: list[str]) -> int:
    from jepakit.verbs.collect import collect

    print(_call(collect, "collect", words, {"env": str, "out": Path}))
    return 0


def _act(words: list[str]) -> int:
    from jepakit.verbs.act import act

    _call(act, "act", words, {"env": str, "task": Path | None})
    return 0


def _status(result: Any) -> int:
    outcome = result.outcome
    if outcome.ended == "interrupted":
        return 128 + (outcome.signal or 2)
    return 3 if outcome.ended == "collapsed" else 0


def _call(
    verb: Callable[..., Any],
    name: str,
    words: list[str],
    types: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
) -> Any:
    """Call a verb with options parsed after its signature. What is positional in Python is so here; `types` are narrower
    types than Python allows (a path instead of any object), `hidden` are parameters that only Python can give."""
    hints = {**get_type_hints(verb), **(types or {})}
    fields: list[Any] = []
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name in hidden:
            continue
        kind: Any = hints[parameter.name]
        if parameter.kind is not parameter.KEYWORD_ONLY:
            kind = tyro.conf.Positional[kind]  # type: ignore[misc]
        required = parameter.default is inspect.Parameter.empty
        fields.append((parameter.name, kind) if required else (parameter.name, kind, parameter.default))
    options = dataclasses.make_dataclass(name.capitalize(), fields, frozen=True)
    options.__doc__ = verb.__doc__
    asked: Any = tyro.cli(options, args=words, prog=f"jepakit {name}")
    return verb(**{field[0]: getattr(asked, field[0]) for field in fields})


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """The value of an option among words not yet parsed: `--config X` or `--config=X`."""
    for position, word in enumerate(words):
        if word == option and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1]
    return None
