"""Reads the forms of channels, rules and the first rule. `notifications/channels.py` and `rules.py` have the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from werkzeug.datastructures import MultiDict

from webapp.console.display import times
from webapp.console.display.forms import Form
from webapp.core.job_spec import FieldError, SpecError
from webapp.core.notices import EVENTS
from webapp.lib.durations import short
from webapp.lib.text import capitalize
from webapp.notifications import channels, rules
from webapp.notifications.channels import ChannelSpec
from webapp.notifications.rules import RuleSpec

FIRST_RULE = "failures"
# The default events of the first rule: rare ones that need a quick reaction.
FIRST_EVENTS = ("group-new", "schedule-missed", "schedule-failing", "queue-unserved", "disk-low")


@dataclass
class ChannelForm(Form):
    """With errors, `spec` is None."""

    FIELDS = ("name", "kind", "to", "url", "hourly_cap")
    spec: Optional[ChannelSpec] = None

    @classmethod
    def empty(cls, kind: str = "mail") -> ChannelForm:
        cap = str(channels.HOURLY_CAP)
        return cls({"name": "", "kind": kind, "to": "", "url": "", "hourly_cap": cap})

    @classmethod
    def of_spec(cls, spec: ChannelSpec) -> ChannelForm:
        """Filled in from a channel. The URL is masked: sent back unchanged, it keeps the stored URL."""
        shown = channels.masked(spec)
        return cls({**{name: str(shown[name]) for name in cls.FIELDS}, "to": ", ".join(spec.to)})

    @classmethod
    def read(cls, sent: Mapping[str, str], stored: Optional[ChannelSpec] = None) -> ChannelForm:
        """Read and check the submitted values. `stored`: the channel that is edited."""
        form = cls({name: sent.get(name, "").strip() for name in cls.FIELDS})
        values = form.values
        if stored is not None:
            values.update(name=stored.name, kind=stored.kind)
        # The field of the other kind is hidden. What was typed there is ignored.
        target = "to" if values["kind"] == "mail" else "url"
        wanted = {name: values[name] for name in ("name", "kind", target, "hourly_cap")}
        try:
            if stored is not None and not values[target]:
                raise SpecError([FieldError(target, "is missing.")])
            form.spec = channels.parse(wanted, stored)
        except SpecError as error:
            form.take(error)
        return form


@dataclass
class RuleForm(Form):
    """With errors, `spec` is None. `on`: the selected events."""

    FIELDS = ("name", "on", "channel", "queue", "schedule", "command", "after", "older_than", "quiet_hours")
    on: tuple[str, ...] = ()
    spec: Optional[RuleSpec] = None

    @classmethod
    def empty(cls, channel: str = "") -> RuleForm:
        return cls({**dict.fromkeys(cls.FIELDS, ""), "channel": channel}, on=("group-new",))

    @classmethod
    def of_fields(cls, described: Mapping[str, Any]) -> RuleForm:
        """Filled in from the description of a rule."""
        values = {name: "" if described.get(name) is None else str(described[name]) for name in cls.FIELDS}
        values["after"] = "" if values["after"] == "1" else values["after"]
        older_than = described.get("older_than") or rules.OLDER_THAN
        values["older_than"] = "" if older_than == rules.OLDER_THAN else short(older_than)
        return cls(values, on=tuple(described["on"]))

    @classmethod
    def read(cls, sent: MultiDict[str, str], *, name: Optional[str] = None) -> RuleForm:
        """Read and check the submitted values. `name`: of the rule that is edited."""
        form = cls({key: sent.get(key, "").strip() for key in cls.FIELDS}, on=tuple(sent.getlist("on")))
        if name is not None:
            form.values["name"] = name
        try:
            form.spec = rules.parse({**form.values, "on": list(form.on)})
        except SpecError as error:
            form.take(error)
            if not form.on:
                form.errors["on"] = "Select at least one event."
            if not form.values["channel"]:
                form.errors["channel"] = "Select a channel."
        return form

    def for_preview(self) -> Optional[RuleSpec]:
        """The rule if its events and conditions are valid, even without a valid name or channel."""
        if self.spec is not None:
            return self.spec
        try:
            return rules.parse({**self.values, "on": list(self.on), "name": "new", "channel": "new"})
        except SpecError:
            return None


@dataclass
class StartForm(Form):
    """The form of the first rule: a channel and a rule at once, with names of their own."""

    FIELDS = ("kind", "to", "url", "on")
    on: tuple[str, ...] = FIRST_EVENTS
    channel: Optional[ChannelSpec] = None
    rule: Optional[RuleSpec] = None

    @classmethod
    def empty(cls) -> StartForm:
        return cls({"kind": "mail", "to": "", "url": ""})

    @classmethod
    def read(cls, sent: MultiDict[str, str], channel_names: Iterable[str], rule_names: Iterable[str]) -> StartForm:
        """Read and check the submitted values. The names are those that are taken."""
        kind = "webhook" if sent.get("kind") == "webhook" else "mail"
        form = cls({"kind": kind, "to": sent.get("to", ""), "url": sent.get("url", "")}, on=tuple(sent.getlist("on")))
        channel = ChannelForm.read({**form.values, "name": _free(kind, channel_names)})
        form.errors = {name: text for name, text in channel.errors.items() if name in cls.FIELDS}
        values = {"name": _free(FIRST_RULE, rule_names), "channel": _free(kind, channel_names)}
        rule = RuleForm.read(MultiDict([*values.items(), *(("on", one) for one in form.on)]))
        form.errors.update({name: text for name, text in rule.errors.items() if name in cls.FIELDS})
        if not form.errors:
            form.channel, form.rule = channel.spec, rule.spec
        return form


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, with a number if it is taken."""
    used = set(taken)
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, len(used) + 3))) if one not in used)


def known_events() -> list[tuple[str, str]]:
    """Each event with its description."""
    return [(name, capitalize(about)) for name, about in EVENTS.items()]


def quiet_hours_example() -> str:
    return f"22:00-07:00 {times.zone_name()}"
