"""The fields of a job: what is accepted, and clear messages for the rest."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webapp.core import job_spec, labels
from webapp.lib import clock

pytestmark = pytest.mark.every_python


def faults(data: Any) -> dict[str, str]:
    with pytest.raises(job_spec.SpecError) as caught:
        job_spec.parse(data) if not isinstance(data, str) else job_spec.parse_json(data)
    return {error.field: error.message for error in caught.value.errors}


def test_the_smallest_job_is_a_command() -> None:
    assert job_spec.parse_json('{"command": "echo hello"}') == job_spec.JobSpec(command="echo hello")


def test_every_field_is_read() -> None:
    spec = job_spec.parse(
        {
            "id": "job1",
            "command": "true",
            "queue": "mail",
            "priority": -100,
            "run_at": "2030-01-02T03:04:05+01:00",
            "max_retries": 1000,
            "timeout": 0.5,
            "cwd": "/srv",
            "env": {"A": "b=c"},
        }
    )
    assert clock.to_iso(spec.run_at) == "2030-01-02T02:04:05.000000Z"
    assert (spec.id, spec.queue, spec.priority, spec.timeout) == ("job1", "mail", -100, 0.5)
    assert (spec.max_retries, spec.cwd, spec.env) == (1000, "/srv", {"A": "b=c"})


def test_a_null_counts_as_missing() -> None:
    assert job_spec.parse({"command": "true", "id": None, "timeout": None}) == job_spec.JobSpec(command="true")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", "", "1 to 128 characters"),
        ("id", "-x", "the first a letter or digit"),
        ("id", "a b", "'a b' is not allowed"),
        ("id", "a" * 129, "1 to 128 characters"),
        ("id", "job\n", "1 to 128 characters"),
        ("id", "é", "1 to 128 characters"),
        ("id", 7, "7 is not allowed"),
        ("queue", "../x", "1 to 128 characters"),
        ("command", "  ", "is empty"),
        ("command", "a\0b", "NUL character"),
        ("command", "\ud800", "surrogate"),
        ("command", "é" * 32769, "65,538 bytes long; at most 65,536"),
        ("command", ["echo"], "is not allowed; expected a shell command as a string"),
        ("priority", 101, "101 is not allowed; expected a whole number from -100 to 100"),
        ("priority", True, "true is not allowed"),
        ("priority", 1.0, "1.0 is not allowed"),
        ("priority", "1", "'1' is not allowed"),
        ("max_retries", -1, "from 0 to 1000"),
        ("max_retries", 10**400, "from 0 to 1000"),
        ("timeout", 0, "more than 0"),
        ("timeout", float("nan"), "more than 0"),
        ("timeout", float("inf"), "at most 2592000"),
        ("delay", -1, "from 0 and at most"),
        ("run_at", "tomorrow", "expected ISO 8601 with a zone"),
        ("run_at", "2030-01-01T00:00:00", "has no time zone"),
        ("run_at", "9999-12-31T23:59:59Z", "expected ISO 8601"),
        ("run_at", "", "expected ISO 8601"),
        ("cwd", "relative", "absolute path"),
        ("env", ["A=b"], "expected an object of strings"),
        ("env", {"A": 1}, "A: 1 is not allowed"),
        ("env", {"A=B": "x"}, "is not a variable name"),
        ("env", {"": "x"}, "is not a variable name"),
        ("env", {"MY-VAR": "x"}, "'MY-VAR' is not a variable name; expected letters, digits and _, the first not a d"),
        ("env", {"1A": "x"}, "is not a variable name"),
        ("env", {"É": "x"}, "is not a variable name"),
        ("env", {"A\n": "x"}, "is not a variable name"),
        ("env", {"export REGION": "eu"}, "Leave out 'export'."),
        ("env", {"#E": "x"}, "Leave out comments."),
        ("cwd", "/srv/app\r", "contains a line end"),
        ("timeout", "soon", "'soon' is not a duration; expected seconds, or a number with s, min, h, d or w"),
        ("timeout", "0s", "'0s' is not allowed; expected seconds, more than 0"),
        ("timeout", "31d", "at most 2592000"),
        ("delay", "-5m", "is not a duration"),
        ("delay", True, "true is not allowed"),
        ("env", {"A": "\0"}, "NUL"),
        ("env", {"QUEUECTL_TOKEN": "x"}, "queuectl sets QUEUECTL_… variables itself"),
        ("env", {"A": "x" * 65536}, "65,537 bytes in total"),
        ("requires", "", "'' is not allowed; expected labels such as gpu, or host:web-1"),
        ("requires", " , ", "is not allowed; expected labels"),
        ("requires", {"gpu": 1}, "is not allowed; expected labels"),
        ("requires", ["gpu", 7], "7 is not a valid label; expected 1 to 128 characters"),
        ("requires", ["gpu ssd"], "'gpu ssd' is not a valid label"),
        ("requires", "gpu, -x", "'-x' is not a valid label"),
        ("requires", "gpu\0", "is not a valid label"),
        ("requires", ["\ud800"], "is not a valid label"),
        ("requires", "host:", "has no host name; expected a label such as host:web-1"),
        ("requires", "host:a host:B", "has host:a and host:b, but a worker runs on one host"),
        ("requires", "a b c d e f g h i", "has 9 labels; at most 8 are allowed"),
    ],
)
def test_an_invalid_value_is_refused_with_field_value_and_rule(field: str, value: Any, words: str) -> None:
    assert words in faults({"command": "true", field: value})[field]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("gpu", "gpu"),
        ("ssd, gpu", "gpu,ssd"),
        (" ssd gpu,,gpu, ", "gpu,ssd"),
        (["ssd", "gpu", "ssd"], "gpu,ssd"),
        ("host:Web-1", "host:web-1"),
        ("host:A host:a", "host:a"),
        ("Host:A", "host:a"),
        (["same"] * 9, "same"),
        ("GPU", "GPU"),
        ([], ""),
        (None, ""),
        ("a b c d e f g h", "a,b,c,d,e,f,g,h"),
    ],
)
def test_labels_are_normalized_to_one_text(value: Any, stored: str) -> None:
    assert labels.text_of(job_spec.parse({"command": "true", "requires": value}).requires) == stored


@pytest.mark.parametrize("command", ["a\r\nb", "a\rb", "\ufeffa\nb", "a\r\r\nb"])
def test_the_line_ends_of_a_command_become_those_of_a_shell(command: str) -> None:
    assert job_spec.parse({"command": command}).command == "a\nb"


def test_the_length_of_a_command_excludes_carriage_returns() -> None:
    assert job_spec.parse({"command": "x\r\n" * 32_768}).command == "x\n" * 32_768


@pytest.mark.parametrize(("value", "seconds"), [("10m", 600), (" 90 ", 90), ("1.5h", 5400), (0.5, 0.5), ("2 min", 120)])
def test_a_duration_is_a_number_or_a_text(value: Any, seconds: float) -> None:
    spec = job_spec.parse({"command": "true", "timeout": value, "delay": value})
    assert (spec.timeout, spec.delay) == (seconds, seconds)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_can_begin_with_a_byte_order_mark(encoding: str) -> None:
    data = '{"command": "echo ä"}'.encode(encoding)
    assert job_spec.parse_json(job_spec.decode(data)).command == "echo ä"
    assert job_spec.parse_json("\ufeff" + '{"command": "echo ä"}').command == "echo ä"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["A"], "'A' has no '='; expected NAME=VALUE."),
        (["# of the region"], "Leave out comments."),
        (["export A"], "Leave out 'export'."),
        (["A=1", " A =2"], "'A' is set twice"),
    ],
)
def test_an_invalid_variable_line_is_refused_with_a_hint(lines: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        job_spec.read_env(lines)


def test_a_variable_keeps_its_value_exactly() -> None:
    assert job_spec.read_env(["A=b=c ", " B= x"]) == {"A": "b=c ", "B": " x"}
    env = {"A": "x\r\ny\r", "_b1": "\ufeff"}
    assert job_spec.parse({"command": "true", "env": env}).env == env


def test_a_start_long_ago_gets_a_warning() -> None:
    def warned(*starts: str) -> list[str]:
        return job_spec.warnings([job_spec.parse({"command": "true", "run_at": start}) for start in starts])

    [told] = warned("2020-01-01T00:00:00Z")
    assert re.match(r"run_at 2020-01-01T00:00:00Z is [\d,]+ days in the past\.", told)
    [told] = warned("2020-01-01T00:00:00Z", "2199-01-01T00:00:00Z", "2019-01-01T00:00:00Z")
    assert told.startswith("run_at of 2 of 3 jobs is up to")
    assert warned(str(clock.to_iso(clock.now() - clock.SECOND)), "2199-01-01T00:00:00Z") == []


def test_all_errors_are_reported_together() -> None:
    assert list(faults({"command": "", "id": "-", "priority": 900})) == ["command", "id", "priority"]


def test_an_unknown_key_suggests_the_nearest_one() -> None:
    assert "Did you mean 'max_retries'?" in faults({"command": "true", "max_retrys": 2})["max_retrys"]
    assert "Known keys: id, command" in faults({"command": "true", "zzz": 2})["zzz"]


def test_delay_and_run_at_exclude_each_other() -> None:
    assert (
        "cannot be combined with delay"
        in faults({"command": "x", "delay": 1, "run_at": "2030-01-01T00:00:00Z"})["run_at"]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'command': 'x'}", "invalid JSON"),
        ("", "invalid JSON"),
        ('{"command": "x"} {}', "invalid JSON"),
        ('{"command": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"priority": ' + "9" * 5000 + "}", "more digits"),
        ('["echo"]', "expected an object such as"),
        ("null", "expected an object such as"),
    ],
)
def test_json_other_than_an_object_is_refused(text: str, words: str) -> None:
    assert words in faults(text)[""] or words in str(faults(text))


def test_a_duplicate_key_is_refused() -> None:
    assert faults('{"command": "a", "command": "b"}') == {"command": "is given twice. Give each key once."}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_keys = st.sampled_from(
    [
        "id",
        "command",
        "queue",
        "requires",
        "priority",
        "delay",
        "run_at",
        "max_retries",
        "timeout",
        "cwd",
        "env",
        "unique",
        "retry",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_keys | st.text(max_size=8), _json))
def test_any_input_is_read_or_refused_with_a_message(data: dict[str, Any]) -> None:
    faults: list[job_spec.FieldError] = []
    spec = None
    try:
        spec = job_spec.parse(data)
    except job_spec.SpecError as error:
        faults = error.errors
    assert (spec is None) == bool(faults)
    assert all(fault.message for fault in faults)
    assert spec is None or json.loads(json.dumps(dict(spec.env))) == spec.env


def test_control_characters_in_a_key_are_escaped_in_the_message() -> None:
    assert r"a\x1b[2J" in faults('{"command": "true", "a\\u001b[2J": 1}')
    assert r"a\x1b[2J" in faults('{"a\\u001b[2J": 1, "a\\u001b[2J": 2}')


def test_invalid_json_is_refused_with_its_position() -> None:
    assert "invalid JSON: Invalid control character at character 14." in faults('{"command":"a\0b"}')[""]
