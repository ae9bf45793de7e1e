"""The import of a crontab, and the report of lines that cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.schedules import crontab
from webapp.schedules.crontab import Crontab, read

DEBIAN = """\
# /etc/crontab: system-wide crontab
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin
MAILTO=root

17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly
25 6\t* * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
47 6\t* * 7\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.weekly; }
@reboot root /usr/local/bin/warm-cache
"""


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")


def notes(found: Crontab) -> str:
    return "\n".join([*(note for _, note in found.notes), *(note for one in found.entries for note in one.notes)])


def test_the_crontab_of_debian_is_read_with_its_user_column() -> None:
    found = read(DEBIAN, user_column=True)
    specs = [one.spec for one in found.entries]
    assert [spec and (spec.name, spec.timing.cron, spec.timing.tz) for spec in specs] == [
        ("run-parts", "17 * * * *", "Europe/Berlin"),
        ("run-parts-2", "25 6 * * *", "Europe/Berlin"),
        ("run-parts-3", "47 6 * * 7", "Europe/Berlin"),
        None,
    ]
    assert specs[0] is not None
    assert specs[0].job.command == "cd / && run-parts --report /etc/cron.hourly"
    assert specs[0].job.env == {"PATH": "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin"}
    assert "MAILTO is not imported" in notes(found)
    assert "cron runs it as root" in notes(found)
    assert "@reboot has no time" in notes(found)


def test_imported_schedules_are_paused_and_do_what_cron_does() -> None:
    (entry,) = read("*/5 * * * * ./poll", user_column=False).entries
    assert entry.spec is not None
    assert (entry.spec.enabled, entry.spec.overlap, entry.spec.catch_up) == (False, "allow", "none")
    assert entry.spec.job.max_retries == 0
    assert read("*/5 * * * * ./poll", user_column=False, enabled=True).entries[0].spec.enabled  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 2 * * * mail -s x%hello", "% as a line break"),
        ("0 2 * * *", "too short"),
        ("99 2 * * * x", "minute '99'"),
        ("@reboot x", "@reboot"),
        ("@sometimes x", "@sometimes"),
    ],
)
def test_a_line_that_cannot_be_carried_over_is_reported(line: str, words: str) -> None:
    (entry,) = read(line, user_column=False).entries
    assert entry.spec is None
    assert words in " ".join(entry.notes)


def test_escaped_percent_signs_are_plain_ones() -> None:
    (entry,) = read(r"0 2 * * * date +\%F", user_column=False).entries
    assert entry.spec is not None
    assert entry.spec.job.command == "date +%F"


def test_variables_apply_to_the_lines_below_them() -> None:
    found = read(
        '0 1 * * * a\nCRON_TZ="Asia/Tokyo"\nHOME=/srv\nX = y z\nSHELL=/bin/bash\n0 2 * * * b', user_column=False
    )
    first, second = (one.spec for one in found.entries)
    assert first is not None
    assert second is not None
    assert (first.timing.tz, first.job.cwd, first.job.env) == ("Europe/Berlin", None, {})
    assert (second.timing.tz, second.job.cwd, second.job.env) == ("Asia/Tokyo", "/srv", {"X": "y z"})
    assert "SHELL=/bin/bash is not imported" in notes(found)


def test_the_time_zone_of_the_machine_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TZ")
    localtime = tmp_path / "localtime"
    localtime.symlink_to("/usr/share/zoneinfo/America/New_York")
    monkeypatch.setattr(crontab, "LOCALTIME", localtime)
    assert crontab.system_zone() == ("America/New_York", str(localtime))
    copied = tmp_path / "copied"
    copied.write_bytes(Path("/usr/share/zoneinfo/Asia/Kathmandu").read_bytes())
    timezone = tmp_path / "timezone"
    timezone.write_text("Asia/Katmandu\n")  # an older name of this zone
    monkeypatch.setattr(crontab, "LOCALTIME", copied)
    monkeypatch.setattr(crontab, "TIMEZONE", timezone)
    assert crontab.system_zone() == ("Asia/Katmandu", str(copied))
    monkeypatch.setattr(crontab, "TIMEZONE", tmp_path / "none")
    assert crontab.system_zone() == ("Asia/Kathmandu", str(copied))
    monkeypatch.setattr(crontab, "LOCALTIME", tmp_path / "none")
    assert crontab.system_zone()[0] == "UTC"


@pytest.mark.parametrize(
    ("value", "zone"),
    [
        (":Europe/Paris", "Europe/Paris"),
        (":{localtime}", "America/New_York"),
        ("{localtime}", "America/New_York"),
        ("/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        ("", "UTC"),
        (":", "UTC"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "CET-1CEST,M3.5.0,M10.5.0/3"),
        ("/none", "/none"),
    ],
)
def test_the_zone_of_tz_is_the_one_that_cron_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, zone: str
) -> None:
    localtime = tmp_path / "localtime"
    localtime.symlink_to("/usr/share/zoneinfo/America/New_York")
    value = value.format(localtime=localtime)
    monkeypatch.setenv("TZ", value)
    found = read(f"0 2 * * * a\nCRON_TZ={value}\n0 2 * * * b", user_column=False)
    assert (found.zone, found.zone_from) == (zone, f"TZ={value}")
    for entry in found.entries:
        if zone in ("/none", "CET-1CEST,M3.5.0,M10.5.0/3"):
            assert "expected a time zone such as Europe/Berlin" in " ".join(entry.notes)
        else:
            assert entry.spec is not None
            assert entry.spec.timing.tz == zone


@pytest.mark.parametrize(
    "path", [path for path in [Path("/etc/crontab"), *Path("/etc/cron.d").glob("*")] if path.is_file()]
)
def test_crontabs_of_this_machine_are_read_or_reported(path: Path) -> None:
    found = read(path.read_text(), user_column=True)
    for one in found.entries:
        assert one.spec is not None or one.notes
