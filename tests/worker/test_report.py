"""The report file: what counts of what a command writes, and that no file does harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from worker.runner.report import LINE_LIMIT, READ_LIMIT, Report, ReportFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report"


def append(path: Path, *lines: Any) -> None:
    with path.open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")


def test_no_file_is_no_report(path: Path) -> None:
    file = ReportFile(str(path))
    assert file.read() is file.finish() is None


def test_the_last_whole_line_of_each_kind_counts(path: Path) -> None:
    file = ReportFile(str(path))
    append(path, {"progress": 0.1, "note": "one"}, {"progress": 0.2}, b'{"progress": 0.')
    assert file.read() == Report(0.2, "one")
    append(path, b'3}\n{"result": {"rows": 5}, "retry_after": 7}')
    assert file.read() == Report(0.3, "one")
    assert file.finish() == Report(0.3, "one", '{"rows": 5}', 7.0)
    assert not path.exists()


def test_a_file_that_is_written_anew_is_read_from_its_start(path: Path) -> None:
    file = ReportFile(str(path))
    for part in (0.1, 0.2):  # of the same length
        path.write_text(f'{{"progress": {part}}}\n')
        assert file.read() == Report(part)
    path.write_text('{"note": "a"}\n')
    assert file.read() == Report(0.2, "a")
    path.unlink()
    path.write_text('{"progress": 1, "note": "another file, which is longer"}\n')
    assert file.read() == Report(1.0, "another file, which is longer")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"hello\n", "it is not a JSON object"),
        (b"[1]\n", "it is not a JSON object"),
        (b"\xff\n", "it is not a JSON object"),
        (b"[" * 5000 + b"\n", "it is not a JSON object"),
        (b'{"progress": NaN}\n', "it is not a JSON object"),
        (b'{"result": {"a": 1e999}}\n', "it is not a JSON object"),
        ({"progess": 1}, "it has none of progress, note, result, retry_after"),
        ({"progress": 1.5}, "progress must be a number from 0 to 1"),
        ({"progress": True}, "progress must be a number from 0 to 1"),
        ({"note": 5}, "note must be a text"),
        ({"result": [1]}, "result must be an object"),
        ({"result": {"a": "b" * 20_000}}, "result is longer than 16 KiB"),
        (b'{"result": ' + b'{"a": ' * 20 + b"[]" + b"}" * 21 + b"\n", "result has more than 20 levels"),
        ({"retry_after": -1}, "retry_after must be a number of seconds"),
        ({"note": "a" * LINE_LIMIT}, "a line is longer than 64 KiB"),
    ],
)
def test_a_line_that_is_wrong_is_left_out_with_one_note(path: Path, line: Any, fault: str) -> None:
    file = ReportFile(str(path))
    append(path, {"progress": 0.5}, line, b"\n", line)
    assert file.read() == Report(0.5, fault=f"2 lines were ignored. The first: {fault}.")


def test_a_note_is_one_line_of_bounded_length_that_any_database_stores(path: Path) -> None:
    append(path, {"note": "a\n\x00\ud800b" + "c" * 1000})
    report = ReportFile(str(path)).read()
    assert report is not None
    assert report.note == "a b" + "c" * 497


def test_of_a_huge_file_only_the_end_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ReportFile(str(path))
    append(path, {"note": "first"})
    with path.open("ab") as sparse:
        sparse.truncate(50 * 1024**3)
    append(path, b"\n", {"progress": 0.9})
    sizes, read = [], os.read

    def counted(descriptor: int, size: int) -> bytes:
        sizes.append(size)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", counted)
    report = file.read()
    assert report is not None
    assert (report.progress, report.note) == (0.9, None)
    assert sum(sizes) <= READ_LIMIT + 200
    os.unlink(path)


def test_links_pipes_and_folders_do_no_harm(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"note": "secret"}\n')
    path.symlink_to(secret)
    report = ReportFile(str(path)).finish()
    assert report is not None
    assert report.note is None
    assert "cannot be opened" in (report.fault or "")
    assert secret.exists()
    assert not path.is_symlink()
    os.mkfifo(path)
    assert ReportFile(str(path)).finish() == Report(fault="it is not a file.")
    path.mkdir()
    (path / "file").touch()
    assert ReportFile(str(path)).finish() == Report(fault="it is not a file.")
    assert not path.exists()


def test_the_file_of_another_user_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, {"note": "theirs"})
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert ReportFile(str(path)).read() == Report(fault="the file belongs to another user.")
