"""The texts of marks on a chart: who changed what."""

from __future__ import annotations

from webapp.console.display.wording import number, who
from webapp.insight.markers import Marker

_MARKER_TEXTS = {
    ("pause", "queue"): "paused queue {name}",
    ("resume", "queue"): "resumed queue {name}",
    ("remove_queue", "queue"): "removed queue {name}",
    ("pause", "schedule"): "paused schedule {name}",
    ("resume", "schedule"): "resumed schedule {name}",
    ("add_schedule", "schedule"): "added schedule {name}",
    ("edit_schedule", "schedule"): "changed schedule {name}",
    ("remove_schedule", "schedule"): "removed schedule {name}",
    ("run_schedule", "schedule"): "ran schedule {name} now",
    ("quiet", "worker"): "drained worker {name}",
    ("stop", "worker"): "stopped worker {name}",
    ("run", "worker"): "let worker {name} take jobs again",
}


def marker_text(one: Marker) -> str:
    """'ana paused queue mail', 'ana set backoff_base from 2 to 3'"""
    text = _MARKER_TEXTS.get((one.verb, one.noun), "").format(name=one.name)
    if one.verb in ("config", "scale") and "to" in one.detail:
        change = f"from {_value(one.detail.get('from'))} to {_value(one.detail['to'])}"
        text = f"set {one.name} {change}" if one.noun == "setting" else f"scaled {one.noun} {one.name} {change}"
    verb = one.verb.replace("_", " ")
    return f"{who(one.actor)} {text or f'{verb}: {one.noun} {one.name}'}"


def _value(value: object) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)
