"""Exports: every matching job once, in bounded reads, without spreadsheet formulas."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from sqlalchemy import event

from tests.factories import make_job, make_jobs
from webapp.db import engines
from webapp.jobs import exports, filters, search
from webapp.lib import clock


def file(kind: str, typed: str = "", **how: bool) -> str:
    return "".join(exports.pieces(kind, search.parse(typed), **how))


def rows(typed: str = "", **how: bool) -> list[dict[str, str]]:
    text = file("csv", typed, **how).removeprefix("\ufeff")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def lines(typed: str = "", **how: bool) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file("jsonl", typed, **how).splitlines()]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("turned", [False, True])
def test_all_matching_jobs_are_exported_once_in_list_order_across_reads_and_caps(
    monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    monkeypatch.setattr(exports, "PAGE", 7)
    monkeypatch.setattr(filters, "SEARCH_CAP", 10)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    now = clock.now()
    make_jobs([{"state": "dead", "id": f"d{n:02}", "exit_code": n % 3, "finished_at": now + n} for n in range(40)])
    make_job("completed", id="other", exit_code=1)
    whole = [f"d{n:02}" for n in range(40)][:: 1 if turned else -1]
    assert [job["id"] for job in lines("state:dead", turned=turned)] == whole
    sought = [id_ for id_ in whole if int(id_[1:]) % 3 == 1]
    assert [job["id"] for job in rows("state:dead exit:1", turned=turned)] == sought


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("turned", [False, True])
def test_new_jobs_during_an_export_do_not_keep_it_from_ending(monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    monkeypatch.setattr(exports, "PAGE", 2)
    make_jobs([{"state": "completed", "id": f"j{n}"} for n in range(6)])
    seen = []
    for number, piece in enumerate(exports.pieces("jsonl", search.parse(""), turned=turned)):
        seen += [json.loads(line)["id"] for line in piece.splitlines()]
        make_jobs([{"state": "completed", "id": f"new{number}-{n}"} for n in range(3)])
    assert sorted(seen) == [f"j{n}" for n in range(6)]


def test_no_transaction_is_open_between_two_reads(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow download must not pin the log: while it waits, no transaction is open."""
    monkeypatch.setattr(exports, "PAGE", 2)
    make_jobs([{"state": "completed"} for _ in range(6)])
    open_now, most = 0, 0

    def begin(_connection: object) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)

    def end(_connection: object) -> None:
        nonlocal open_now
        open_now -= 1

    engine = engines.read_engine()
    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", end)
    event.listen(engine, "rollback", end)
    pieces = 0
    for _ in exports.pieces("csv", search.parse("")):
        pieces += 1
        assert open_now == 0
    assert (pieces, most) == (4, 1)


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-rf", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "＋1", "－1", "＠x", "\u3000=1"],  # noqa: RUF001
)
def test_a_text_that_looks_like_a_formula_gets_an_apostrophe(text: str) -> None:
    assert exports.safe(text) == "'" + text


@pytest.mark.parametrize("value", ["echo -rf", "a=b", "'=1", "", 5, -5, None, 1.5])
def test_other_cells_are_left_alone(value: Any) -> None:
    assert exports.safe(value) == value


@pytest.mark.usefixtures("app")
def test_a_csv_with_any_content_reads_back_unchanged() -> None:
    hostile = '=HYPERLINK("http://evil.example","x"),\r\n"quoted"; é'
    make_job("dead", id="job1", command=hostile, last_error='-2+3, "so"\nand so', priority=-5, exit_code=1)
    text = file("csv")
    assert text.split("\r\n")[0] == "\ufeff" + ",".join(exports.COLUMNS)
    assert text.endswith("\r\n")
    assert "env" not in exports.COLUMNS
    (row,) = rows()
    assert row["command"] == "'" + hostile
    assert row["last_error"] == "'" + '-2+3, "so"\nand so'
    assert (row["id"], row["priority"], row["exit_code"], row["timeout"]) == ("job1", "-5", "1", "")


@pytest.mark.parametrize("text", ["x" * 32_767, "\N{SNAKE}" * 16_383, "é", "", 7, None])
def test_a_cell_that_excel_takes_is_whole(text: Any) -> None:
    assert exports.short(text) == text


@pytest.mark.parametrize("text", ["x" * 32_768, "=" * 40_000, "\N{SNAKE}" * 16_384, "a" + "\N{SNAKE}" * 20_000])
def test_a_cell_that_is_too_long_for_excel_is_cut_and_says_so(text: str) -> None:
    cut = exports.short(exports.safe(text))
    assert 32_760 <= len(cut.encode("utf-16-le")) // 2 <= 32_767
    kept = cut.removesuffix(exports.CUT)
    assert kept != cut
    assert exports.safe(text).startswith(kept)


@pytest.mark.usefixtures("app")
def test_labels_are_one_csv_cell_and_a_json_list() -> None:
    make_job(id="job1", requires="gpu,ssd")
    make_job(id="job2")
    assert [row["requires"] for row in rows()] == ["", "gpu,ssd"]
    assert [line["requires"] for line in lines()] == [[], ["gpu", "ssd"]]


@pytest.mark.usefixtures("app")
def test_environment_values_are_only_for_users_who_may_submit() -> None:
    make_job(id="job1", env='{"SECRET": "s3cr3t"}')
    assert lines()[0]["env"] == {"SECRET": None}
    assert lines(with_env=True)[0]["env"] == {"SECRET": "s3cr3t"}
    assert "s3cr3t" not in file("csv", with_env=True)


@pytest.mark.usefixtures("app")
def test_an_empty_list_is_a_header_or_nothing() -> None:
    assert file("csv") == "\ufeff" + ",".join(exports.COLUMNS) + "\r\n"
    assert file("jsonl") == ""
