"""The meaning of a line in `.env`, for the start that creates the virtual environment and for everything after it."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from webapp import config as configuration
from webapp.bootstrap.venv import BootstrapError, setting
from webapp.config import ConfigError
from webapp.lib import dotenv


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=x", "x"),
        ("A=", ""),
        ("A", None),
        ("# A=x", None),
        ("not an assignment", None),
        ("#\n\n  A = x  ", "x"),
        ("export A=x", "x"),
        ("export\tA='x'", "x"),
        ("'A'=x", "x"),
        ("A=x\nA=y", "y"),
        ("A=x\r\nB=y\r\n", "x"),
        # comments
        ("A=.venv  # note", ".venv"),
        ("A=.venv\t# note", ".venv"),
        ("A= # note", ""),
        ("A=x#y", "x#y"),
        ("A='x # y' # note", "x # y"),
        # quotes
        ("A='x y'", "x y"),
        ('A="x y"', "x y"),
        ("A=it's", "it's"),
        ("A='it\\'s'", "it's"),
        ("A='C:\\new\\\\'", "C:\\new\\"),
        ('A="say \\"x\\"\\tand \\\\n"', 'say "x"\tand \\n'),
        ("A='\\n'", "\\n"),
        ('A="one\ntwo"\nB=y', "one\ntwo"),
        ("# don't\nA='x'", "x"),
        # an open quote: the check of the setting refuses what remains of it
        ("A='x", "'x"),
        ("A='x\nB='y'", "'x"),
        ("A='x' y", "'x' y"),
        # references
        ("B=x\nA=${B}/y", "x/y"),
        ("A=${HERE}", "here"),
        ("HERE=there\nA=${HERE}", "there"),
        ("A=${NOT_HERE:-x}", "x"),
        ("A=${NOT_HERE}", ""),
        ("A=$B", "$B"),
    ],
)
def test_a_line_is_read_as_in_python_dotenv(text: str, value: Optional[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "here")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert dotenv.parse(text).get("A") == value


def test_both_readers_of_the_file_find_the_same_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfQUEUECTL_HOME='/srv/a queue'  # ours\r\n")
    monkeypatch.setattr(configuration, "CHECKOUT", tmp_path)
    assert setting("QUEUECTL_HOME", str(tmp_path)) == "/nonexistent/a-test-forgot-its-home"  # the environment's
    monkeypatch.delenv("QUEUECTL_HOME")
    assert setting("QUEUECTL_HOME", str(tmp_path)) == "/srv/a queue"
    assert configuration.load({"HOME": str(tmp_path)}).home == Path("/srv/a queue")


def test_a_missing_file_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUEUECTL_VENV", raising=False)
    assert dotenv.load(str(tmp_path / ".env")) == {}
    assert setting("QUEUECTL_VENV", str(tmp_path)) == ""


def test_an_unreadable_file_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(configuration, "CHECKOUT", tmp_path)
    monkeypatch.setattr(dotenv, "load", refuse)
    with pytest.raises(ConfigError, match=r"cannot read .*\.env: Permission denied"):
        configuration.load({"HOME": str(tmp_path)})
    (tmp_path / ".env").touch()
    monkeypatch.delenv("QUEUECTL_VENV", raising=False)
    with pytest.raises(BootstrapError, match=r"cannot read .*\.env: Permission denied"):
        setting("QUEUECTL_VENV", str(tmp_path))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "A='it\\'s \\\\ new'\n"),
        ("B=x", "B=x\nA='it\\'s \\\\ new'\n"),
        ("# ours\nexport A=x # y\nB=z\n", "# ours\nA='it\\'s \\\\ new'\nB=z\n"),
        ("A='one\ntwo'\nB=z", "A='it\\'s \\\\ new'\nB=z"),
    ],
)
def test_one_value_is_set_and_the_rest_stays(before: Optional[str], after: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    if before is not None:
        file.write_text(before)
    dotenv.assign(str(file), "A", "it's \\ new", owner=str(tmp_path))
    assert file.read_text() == after
    assert dotenv.load(str(file))["A"] == "it's \\ new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
