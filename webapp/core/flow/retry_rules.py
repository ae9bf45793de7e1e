"""Retry rules of a job or a queue: what happens after a failed attempt, and how long a retry waits. Pure functions.

As JSON: {"rules": [{"exit": [75, "100-110"], "do": "wait"}, {"signal": ["KILL"], "do": "retry"}, {"output": "refused",
"do": "bury"}], "backoff": {"kind": "linear", "base": 10, "cap": 600, "jitter": 0.1}}. Users write a line for each:
`exit 75, 100-110: wait` and `backoff linear 10s cap 10m jitter 0.1`. The first matching rule applies.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, Optional

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.lib import durations
from webapp.lib.safe_pattern import MAX_STATES, PatternError, compiled
from webapp.lib.text import shorten

ACTIONS = {
    "retry": "retried after the backoff",
    "wait": "retried after the time that the command reported",
    "bury": "moved to the dead letters at once",
    "success": "counted as completed",
}
KINDS = ("exponential", "linear", "fixed")
CONDITIONS = ("exit", "signal", "output")
MAX_RULES = 20
MAX_VALUES = 50  # exit codes and ranges, or signals, of one rule
MAX_SIZE = 8 * 1024  # characters
MAX_WAIT = 7 * 86400  # seconds
MESSAGE_WAIT = 300.0  # seconds at the most between two tries to send a message: its receiver may be back
LAST_LINES, LAST_CHARACTERS = 20, 4000  # of the output, that a pattern searches
_LINE = re.compile(r"(?:(exit|signal|output)\s+(.+)|(any))\s*:\s*(\w+)\Z", re.DOTALL)
_RANGE = re.compile(r"(\d{1,10})\s*-\s*(\d{1,10})\Z", re.ASCII)
_EXAMPLE = (
    "such as 'exit 75: wait', 'signal KILL: retry', 'output timed out: retry', 'any: bury' or 'backoff fixed 30s'"
)


class Rule(NamedTuple):
    """A condition and what to do. `kind` is one of CONDITIONS, or 'any'."""

    kind: str
    values: tuple[Any, ...]  # exit codes as (first, last); signals as numbers; one pattern as text
    do: str

    @property
    def text(self) -> str:
        """The rule as a line."""
        if self.kind == "any":
            return f"any: {self.do}"
        if self.kind == "exit":
            shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.values)
        else:
            shown = ", ".join(map(_signal_name, self.values)) if self.kind == "signal" else self.values[0]
        return f"{self.kind} {shown}: {self.do}"


class Backoff(NamedTuple):
    """How long a retry waits, in seconds. None: the setting decides."""

    kind: str
    base: float
    cap: Optional[float] = None
    jitter: Optional[float] = None

    @property
    def text(self) -> str:
        cap = "" if self.cap is None else f" cap {_seconds(self.cap)}"
        jitter = "" if self.jitter is None else f" jitter {self.jitter:g}"
        return f"backoff {self.kind} {_seconds(self.base)}{cap}{jitter}"

    def delay(self, failures: int, settings: Settings, luck: float) -> float:
        """Seconds to wait after this number of failures. `luck` is a random number from 0 to 1."""
        cap = settings.backoff_max if self.cap is None else self.cap
        jitter = settings.backoff_jitter if self.jitter is None else self.jitter
        growth = {"fixed": 1.0, "linear": float(failures)}.get(self.kind)
        if growth is None:
            growth = 2.0 ** min(failures - 1, 64)
        return min(cap, self.base * growth) * (1 + jitter * luck)


class RetryRules(NamedTuple):
    """The rules in their order, and the backoff."""

    rules: tuple[Rule, ...] = ()
    backoff: Optional[Backoff] = None

    @property
    def lines(self) -> list[str]:
        """As users write them."""
        return [*(rule.text for rule in self.rules), *([self.backoff.text] if self.backoff else [])]

    @property
    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.rules:
            found["rules"] = [_rule_json(rule) for rule in self.rules]
        if self.backoff:
            found["backoff"] = {name: value for name, value in self.backoff._asdict().items() if value is not None}
        return found


class Failed(NamedTuple):
    """A failed attempt. `output` is the end of its output, as plain text."""

    reason: str
    exit_code: Optional[int]
    signal: Optional[int]
    output: str


# --- deciding --------------------------------------------------------------------------------------------------------


def decide(rules: RetryRules, failed: Failed) -> Optional[Rule]:
    """The first rule that matches; None: the usual retry."""
    return next((rule for rule in rules.rules if _matches(rule, failed)), None)


def _matches(rule: Rule, failed: Failed) -> bool:
    if rule.kind == "exit":  # after a timeout or a limit, the exit code is not the command's own
        code = failed.exit_code if failed.reason == "exit" else None
        return code is not None and any(first <= code <= last for first, last in rule.values)
    if rule.kind == "signal":
        return failed.reason == "signal" and failed.signal in rule.values
    if rule.kind == "output":
        return compiled(rule.values[0]).finds(last_lines(failed.output))
    return True


def last_lines(text: str) -> str:
    """The part of the output that a pattern searches."""
    return "\n".join(text[-LAST_CHARACTERS:].rstrip().split("\n")[-LAST_LINES:])


def wait_of(
    rules: RetryRules, rule: Optional[Rule], failures: int, settings: Settings, luck: float, told: Optional[float]
) -> float:
    """Seconds until the retry. `told`: what the command reported, which counts unless a rule says `retry`."""
    if told is not None and (rule is None or rule.do == "wait"):
        return min(told, MAX_WAIT)
    return delay(rules, failures, settings, luck)


def delay(rules: RetryRules, failures: int, settings: Settings, luck: float) -> float:
    """The backoff in seconds: by the rules, else by the settings."""
    if rules.backoff is not None:
        return rules.backoff.delay(failures, settings, luck)
    return exponential(failures, settings.backoff_base, settings.backoff_max, settings.backoff_jitter, luck)


def wait_by_settings(queue: str, failures: int, settings: Settings, luck: float) -> float:
    """The backoff of a job in this queue without rules, in seconds."""
    longest = min(settings.backoff_max, MESSAGE_WAIT) if queue == SYSTEM_QUEUE else settings.backoff_max
    return exponential(failures, settings.backoff_base, longest, settings.backoff_jitter, luck)


def exponential(failures: int, base: float, longest: float, jitter: float, luck: float) -> float:
    """Seconds to wait after this number of failures (1 or more): `base ** failures`, at most `longest`, plus jitter.

    The jitter is `jitter * luck` times the wait; `luck` is a random number from 0 to 1.
    """
    reaches_limit = failures * math.log(base) >= math.log(longest)  # the power itself may overflow
    wait = longest if reaches_limit else base**failures
    return wait * (1 + jitter * luck)


def timetable(settings: Settings, max_retries: int) -> list[float]:
    """The waits before retry 1, 2, … by the settings, in seconds, without jitter."""
    base, longest = settings.backoff_base, settings.backoff_max
    return [exponential(failures, base, longest, 0, 0) for failures in range(1, max_retries + 1)]


# --- reading ---------------------------------------------------------------------------------------------------------


def read(value: object) -> Optional[str]:
    """The text to store, from an object, lines, or a list of lines; None: no rules. Raises ValueError."""
    rules = parse(value)
    return json.dumps(rules.as_json) if rules.rules or rules.backoff else None


@lru_cache(maxsize=256)
def stored(text: Optional[str]) -> RetryRules:
    """The rules that a row has. Rules that a newer version wrote count as none."""
    try:
        return parse(json.loads(text)) if text else RetryRules()
    except ValueError:
        return RetryRules()


def parse(value: object) -> RetryRules:
    """Raises ValueError, whose message needs the field's name in front."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is not valid JSON.") from None
    if isinstance(value, str):
        value = [line.strip() for line in value.splitlines() if line.strip()]
    if isinstance(value, (list, tuple)):
        value = _of_lines(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{_show(value)} is not allowed; expected rules, {_EXAMPLE}.")
    _refuse_unknown(value, ("rules", "backoff"), "")
    listed = value.get("rules") or []
    if not isinstance(listed, list) or len(listed) > MAX_RULES:
        raise ValueError(f"rules: expected a list of at most {MAX_RULES} rules.")
    rules = tuple(_rule(one, number) for number, one in enumerate(listed, 1))
    # They are searched while a worker settles: that may take milliseconds.
    if sum(compiled(rule.values[0]).size for rule in rules if rule.kind == "output") > MAX_STATES:
        raise ValueError("rules: all patterns together repeat too much. Use smaller repeat counts.")
    after = next((number for number, rule in enumerate(rules, 1) if rule.kind == "any"), len(rules))
    if after < len(rules):
        raise ValueError(f"rule {after + 1} comes after a rule for any failure, so it would never apply.")
    found = RetryRules(rules, None if value.get("backoff") is None else _backoff(value["backoff"]))
    if len(json.dumps(found.as_json)) > MAX_SIZE:
        raise ValueError(f"is longer than {MAX_SIZE:,} characters.")
    return found


def _of_lines(lines: Sequence[object]) -> dict[str, Any]:
    """The object that these lines describe."""
    found: dict[str, Any] = {"rules": []}
    for line in lines:
        if not isinstance(line, str):
            raise ValueError(f"{_show(line)} is not allowed; expected a line, {_EXAMPLE}.")
        words = line.split()
        if words[:1] == ["backoff"]:
            if "backoff" in found:
                raise ValueError("has two lines with a backoff. Give one.")
            found["backoff"] = _backoff_words(words[1:])
            continue
        match = _LINE.match(line.strip())
        if match is None:
            raise ValueError(f"{_show(line)} is not a rule; expected {_EXAMPLE[8:]}.")
        rule: dict[str, Any] = {"do": match[4]}
        if match[1] == "output":
            rule["output"] = match[2]
        elif match[1]:
            parts = [part.strip() for part in match[2].split(",")]
            rule[match[1]] = [int(part) if part.isdecimal() and len(part) < 12 else part for part in parts]
        found["rules"].append(rule)
    return found


def _backoff_words(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": words[0] if words else None, "base": words[1] if len(words) > 1 else None}
    rest = words[2:]
    if len(rest) % 2:
        raise ValueError(f"backoff: {_show(rest[-1])} has no value; expected backoff linear 10s cap 10m jitter 0.1.")
    found.update(zip(rest[::2], rest[1::2]))
    with suppress(ValueError):  # the check of the object refuses it
        found["jitter"] = float(found["jitter"]) if "jitter" in found else None
    return found


def _rule(value: object, number: int) -> Rule:
    where = f"rule {number}: "
    if not isinstance(value, Mapping):
        raise ValueError(f'{where}{_show(value)} is not allowed; expected an object such as {{"exit": [75], …}}.')
    _refuse_unknown(value, (*CONDITIONS, "do"), where)
    do = value.get("do")
    if not isinstance(do, str) or do not in ACTIONS:
        raise ValueError(f"{where}{_show(do)} is not an action; expected {', '.join(ACTIONS)}.")
    given = [name for name in CONDITIONS if value.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"{where}has {' and '.join(given)}. Give one of them, or make several rules.")
    if not given:
        return Rule("any", (), do)
    kind = given[0]
    if kind == "output":
        return Rule(kind, (_pattern(value[kind], where),), do)
    listed = value[kind] if isinstance(value[kind], list) else [value[kind]]
    if not 1 <= len(listed) <= MAX_VALUES:
        raise ValueError(f"{where}{kind}: expected 1 to {MAX_VALUES} values.")
    read_one = _codes if kind == "exit" else _signal
    return Rule(kind, tuple(read_one(one, where) for one in listed), do)


def _pattern(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}output: {_show(value)} is not allowed; expected a pattern as text.")
    try:
        compiled(value)
    except PatternError as error:
        raise ValueError(f"{where}output: the pattern {error}") from None
    return value


def _codes(value: object, where: str) -> tuple[int, int]:
    match = _RANGE.match(value) if isinstance(value, str) else None
    first, last = (int(match[1]), int(match[2])) if match else (value, value)
    is_number = isinstance(first, int) and not isinstance(first, bool)
    if not is_number or not 1 <= first <= last <= 2**32:  # type: ignore[operator]
        raise ValueError(f"{where}exit: {_show(value)} is not an exit code above 0, or a range such as 100-110.")
    return first, last  # type: ignore[return-value]


def _signal(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64:
        return value
    name = value.upper() if isinstance(value, str) else ""
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise ValueError(f"{where}signal: {_show(value)} is not a signal, such as KILL or 9.")
    return int(found)


def _backoff(value: object) -> Backoff:
    if not isinstance(value, Mapping):
        raise ValueError(f"backoff: {_show(value)} is not allowed; expected an object with kind and base.")
    _refuse_unknown(value, Backoff._fields, "backoff: ")
    if value.get("kind") not in KINDS:
        raise ValueError(f"backoff: {_show(value.get('kind'))} is not a kind of backoff; expected {', '.join(KINDS)}.")
    base = _length(value.get("base"), "base")
    cap = None if value.get("cap") is None else _length(value["cap"], "cap")
    if cap is not None and cap < base:
        raise ValueError("backoff: cap is less than base.")
    jitter = value.get("jitter")
    is_number = isinstance(jitter, (int, float)) and not isinstance(jitter, bool)
    if jitter is not None and not (is_number and 0 <= jitter <= 1):
        raise ValueError(f"backoff: jitter {_show(jitter)} is not allowed; expected a number from 0 to 1.")
    return Backoff(value["kind"], base, cap, None if jitter is None else float(jitter))


def _length(value: object, name: str) -> float:
    try:
        seconds = durations.parse(value) if isinstance(value, str) else value
    except ValueError:
        seconds = None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_WAIT:
        raise ValueError(f"backoff: {name} {_show(value)} is not allowed; expected a time above 0, such as 30s, "
                         "at most 7d.")  # fmt: skip
    return float(seconds)


def _refuse_unknown(value: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in value:
        if key not in known:
            raise ValueError(f"{where}{_show(str(key))} is not a known key. Known keys: {', '.join(known)}.")


def _rule_json(rule: Rule) -> dict[str, Any]:
    if rule.kind == "any":
        return {"do": rule.do}
    if rule.kind == "output":
        return {"output": rule.values[0], "do": rule.do}
    if rule.kind == "signal":
        return {"signal": [_signal_name(number) for number in rule.values], "do": rule.do}
    codes = [first if first == last else f"{first}-{last}" for first, last in rule.values]
    return {"exit": codes, "do": rule.do}


def _signal_name(number: int) -> Any:
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return number


def _seconds(value: float) -> str:
    return durations.short(int(value)) if value == int(value) and math.isfinite(value) else f"{value:g}s"


def _show(value: object) -> str:
    return shorten(ascii(value) if isinstance(value, str) else json.dumps(value, default=str), 60)
