"""Schedules as a file: reads YAML or TOML, plans what to add, change and remove, and writes the same file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, time
from functools import cache
from typing import Any, Optional

from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.lib import clock
from webapp.schedules.actions import Change
from webapp.schedules.preview import Preview, preview
from webapp.schedules.spec import ScheduleSpec, parse, to_json
from webapp.schedules.timing import Timing

DEFAULTS = to_json(ScheduleSpec(Timing(name=""), JobSpec(command="")))


@dataclass(frozen=True)
class PlannedChange:
    """A schedule to add, change, or remove (`after` is None)."""

    name: str
    kind: str  # add, change or remove
    after: Optional[ScheduleSpec]
    fields: Sequence[str] = ()
    preview: Optional[Preview] = None


@dataclass
class FilePlan:
    """What a file changes. `unchanged`: the number of schedules that are as the file says."""

    changes: list[PlannedChange] = field(default_factory=list)
    unchanged: int = 0

    def as_changes(self) -> list[Change]:
        return [Change(change.name, change.after, change.kind != "add") for change in self.changes]


@dataclass(frozen=True)
class Described:
    """A schedule as a file describes it. `given`: the keys that the file gives."""

    spec: ScheduleSpec
    given: Sequence[str]


def read(text: str, *, is_toml: bool) -> list[Described]:
    """Read a file: a mapping `schedules` of names to fields, or a list of schedules with names.

    Raises SpecError; the errors of a schedule have its place in the file.
    """
    data = _load_toml(text) if is_toml else _load_yaml(text)
    found = data.get("schedules") if isinstance(data, Mapping) else data
    if isinstance(found, Mapping):
        found = [{"name": name, **(fields if isinstance(fields, Mapping) else {})} for name, fields in found.items()]
    if not isinstance(found, list):
        message = "expected schedules: a list, or a mapping of names to fields."
        raise SpecError([FieldError("schedules", message)])
    described: list[Described] = []
    errors: list[FieldError] = []
    for place, one in enumerate(found):
        _read_one(one, place, described, errors)
    names = [one.spec.name for one in described]
    errors.extend(
        FieldError("name", f"{name!r} is given twice.", place)
        for place, name in enumerate(names)
        if name in names[:place]
    )
    if errors:
        raise SpecError(errors)
    return described


def _read_one(one: object, place: int, described: list[Described], errors: list[FieldError]) -> None:
    try:
        spec = parse(one)
        described.append(Described(spec, [*one] if isinstance(one, Mapping) else []))
    except SpecError as error:
        errors += [FieldError(wrong.field, wrong.message, place) for wrong in error.errors]


def plan(stored: Mapping[str, Optional[ScheduleSpec]], wanted: Sequence[Described], *, prune: bool) -> FilePlan:
    """Compare the stored schedules, see `views.stored`, with those of a file.

    A pause stays if the file does not say `enabled`, and intervals stay if it does not say `anchor`.
    """
    found, now = FilePlan(), clock.now()
    for one in wanted:
        name, before = one.spec.name, stored.get(one.spec.name)
        after = one.spec if before is None else _with_kept(before, one)
        if before == after:
            found.unchanged += 1
            continue
        old = to_json(before) if before is not None else {}
        new = to_json(after)
        fields = [key for key in new if new[key] != old.get(key)]
        kind = "change" if name in stored else "add"
        found.changes.append(PlannedChange(name, kind, after, fields, preview(before, after, now)))
    if prune:
        kept = {one.spec.name for one in wanted}
        found.changes += [PlannedChange(name, "remove", None) for name in sorted(stored) if name not in kept]
    return found


def dump(specs: Sequence[ScheduleSpec]) -> str:
    """The YAML file of these schedules, without values that are defaults."""
    import yaml

    described = {spec.name: _without_defaults(to_json(spec)) for spec in sorted(specs, key=lambda spec: spec.name)}
    return str(yaml.safe_dump({"schedules": described}, sort_keys=False, allow_unicode=True, width=120))


def _without_defaults(described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in described.items()
        if key != "name" and value is not None and value != DEFAULTS.get(key)
    }


def _with_kept(before: ScheduleSpec, one: Described) -> ScheduleSpec:
    spec = one.spec
    if "enabled" not in one.given:
        spec = replace(spec, enabled=before.enabled)
    if "anchor" not in one.given and spec.timing.every is not None and spec.timing.every == before.timing.every:
        spec = replace(spec, timing=replace(spec.timing, anchor=before.timing.anchor))
    return spec


def _load_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())  # noqa: S506 -- a SafeLoader
    except RecursionError:
        raise SpecError([FieldError("", "this YAML is nested too deeply for schedules.")]) from None
    except yaml.YAMLError as error:
        raise SpecError([FieldError("", f"invalid YAML: {error}")]) from None


@cache
def _yaml_loader() -> Any:
    """PyYAML's SafeLoader reads 22:30 as 1350 and 2026-12-01 as a date. This one reads both as texts, as YAML 1.2 does.

    It also refuses a key that is given twice, of which the other keeps the last.
    """
    import yaml

    def mapping(loader: Any, node: Any) -> Any:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        yield from loader.construct_yaml_map(node)

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    numbers = {"int": r"[-+]?(?:0|[1-9][0-9_]*)\Z", "float": r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z"}
    for kind, rule in numbers.items():
        add: Any = Loader.add_implicit_resolver  # some versions of its types have none for this
        add(f"tag:yaml.org,2002:{kind}", re.compile(rule), list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader


def _load_toml(text: str) -> Any:
    import tomli

    try:
        return _with_texts(tomli.loads(text))
    except RecursionError:
        raise SpecError([FieldError("", "this TOML is nested too deeply for schedules.")]) from None
    except tomli.TOMLDecodeError as error:
        raise SpecError([FieldError("", f"invalid TOML: {error}")]) from None


def _with_texts(value: Any) -> Any:
    """TOML has dates and times of its own; fields of schedules are texts."""
    if isinstance(value, dict):
        return {key: _with_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_texts(inner) for inner in value]
    if isinstance(value, time):
        return value.isoformat("auto" if value.second or value.microsecond else "minutes")
    return value.isoformat() if isinstance(value, date) else value
