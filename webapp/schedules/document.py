"""Schedules as a file: reads YAML or TOML, plans what to add, change and remove, and writes the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from webapp.core.job_spec import FieldError, SpecError
from webapp.lib import clock
from webapp.schedules.actions import Change
from webapp.schedules.preview import Preview, preview
from webapp.schedules.spec import ScheduleSpec, parse, to_json

DEFAULTS = {
    "tz": "UTC", "spread": 0, "overlap": "skip", "catch_up": "last", "catch_up_max": 10, "late_after": 300,
    "failing_after": 1, "enabled": True, "note": "", "owner": "",
}  # fmt: skip


@dataclass(frozen=True)
class PlannedChange:
    """A schedule to add (`before` is None), change, or remove (`after` is None)."""

    before: Optional[ScheduleSpec]
    after: Optional[ScheduleSpec]
    fields: Sequence[str] = ()
    preview: Optional[Preview] = None

    @property
    def name(self) -> str:
        spec = self.after or self.before
        return spec.name if spec is not None else ""


@dataclass
class FilePlan:
    """What a file changes. `unchanged`: the number of schedules that are as the file says."""

    changes: list[PlannedChange] = field(default_factory=list)
    unchanged: int = 0

    def as_changes(self) -> list[Change]:
        return [Change(change.name, change.after, change.before is not None) for change in self.changes]


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


def plan(stored: Mapping[str, ScheduleSpec], wanted: Sequence[Described], *, prune: bool) -> FilePlan:
    """Compare the stored schedules with those of a file.

    A pause stays if the file does not say `enabled`, and intervals stay if it does not say `anchor`.
    """
    found, now = FilePlan(), clock.now()
    for one in wanted:
        before = stored.get(one.spec.name)
        after = one.spec if before is None else _with_kept(before, one)
        if before == after:
            found.unchanged += 1
            continue
        old = to_json(before) if before is not None else {}
        new = to_json(after)
        fields = [key for key in new if new[key] != old.get(key)]
        found.changes.append(PlannedChange(before, after, fields, preview(before, after, now)))
    if prune:
        kept = {one.spec.name for one in wanted}
        found.changes += [PlannedChange(spec, None) for name, spec in sorted(stored.items()) if name not in kept]
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
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError([FieldError("", f"invalid YAML: {error}")]) from None


def _load_toml(text: str) -> Any:
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise SpecError([FieldError("", f"invalid TOML: {error}")]) from None
