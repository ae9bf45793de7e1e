"""The search language: parsing, errors, the cap, and the index behind it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Optional

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tests.factories import change_job, make_attempt, make_job, make_jobs
from webapp.core.states import STATES
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import OutputTail
from webapp.jobs import actions, filters, listing, queries, search
from webapp.jobs.filters import FilterError, JobFilter
from webapp.jobs.listing import Page
from webapp.jobs.search import SearchError
from webapp.lib import clock


def given_in(typed: str) -> dict[str, Any]:
    return {name: value for name, value in vars(search.parse(typed)).items() if value is not None and value != ()}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", {}),
        ("state:dead queue:mail exit:127", {"state": "dead", "queue": "mail", "exit": 127}),
        ("STATE:Dead  exit:-1", {"state": "dead", "exit": -1}),
        ("id:job1 worker:web-1", {"id": "job1", "worker": "web-1"}),
        ("by:ana", {"by": "person:ana"}),
        ("by:token:deploy", {"by": "token:deploy"}),
        ("requires:gpu", {"requires": "gpu"}),
        ("requires:host:Web-1", {"requires": "host:web-1"}),
        ('queue:"mail"', {"queue": "mail"}),
        ("since:2026-11-24", {"since": clock.parse_iso("2026-11-24T00:00:00Z")}),
        ("since:2026-11-24T09:30:00+02:00", {"since": clock.parse_iso("2026-11-24T07:30:00Z")}),
        ("error:Space Failed-Attempt:any", {"error": "Space", "failed_attempt": "any"}),
        ("send letter", {"text": "send letter", "output": True}),
        ('"send letter" now', {"text": '"send letter" now', "output": True}),
        ('"redis:7"', {"text": '"redis:7"', "output": True}),
        (r'"say \"hi\""', {"text": r'"say \"hi\""', "output": True}),
        ('5" x"y', {"text": '5" x"y', "output": True}),
        # What commands are full of is text without quotes.
        (r"https://a.b/ 12:30 C:\x --all - $HOME", {"text": r"https://a.b/ 12:30 C:\x --all - $HOME", "output": True}),
        ("warning: no such", {"text": '"warning:" no such', "output": True}),
        # A single hyphen excludes.
        ("-rf", {"excluded": (JobFilter(text="rf", output=True),)}),
        ('"-rf"', {"text": '"-rf"', "output": True}),
        (
            '-queue:mail -queue:web -"a b" -queue:mail',
            {"excluded": (JobFilter(queue="mail"), JobFilter(queue="web"), JobFilter(text='"a b"', output=True))},
        ),
    ],
)  # fmt: skip
def test_a_search_is_read(typed: str, found: dict[str, Any]) -> None:
    assert given_in(typed) == found


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("statt:dead", ["unknown search term statt:", "Did you mean state:?", 'quote it: "statt:dead"']),
        ("redis:7", ["unknown search term redis:", "Known terms: state:, queue:, exit:"]),
        ("state:done", ["state:done is not a state", "scheduled, pending"]),
        ("exit:x", ["exit:x is not an exit code", "such as exit:127"]),
        ("exit:99999999999", ["is not an exit code"]),
        ("since:morning", ["since: 'morning' is not a time", "2h or 7d", "2026-11-24 (UTC)"]),
        ("until:08:00", ["until: '08:00' is not a time"]),
        ("on:2h", ["on: '2h' is not a day", "today, yesterday, a weekday"]),
        ("on:today since:1h", ["since: is given twice"]),
        ("since:1h on:today", ["on: cannot be combined with"]),
        ("error:", ["error: needs a value", 'such as error:"no space"']),
        ("-state:done", ["state:done is not a state"]),
        ("-a -b -c -d -e -f -g -h -i", ["at most 8 words"]),
        ("since:2026", ["since: 2026 has no unit", "2h or 7d"]),
        ("queue: mail", ["queue: needs a value, without a space before it"]),
        ("queue:-", ["queue:- is not a valid name", "the first a letter or digit"]),
        ("id:a/b", ["id:a/b is not a valid name"]),
        ("exit:1 exit:2", ["exit: is given twice"]),
        ('say "hello', ["the quote before 'hello' is not closed"]),
        ("x\0", ["an invalid character"]),
        ("a b c d e f g h i", ["at most 8 words"]),
        ("x" * 1001, ["at most 1000 characters", "1,001"]),
    ],
)
def test_an_invalid_search_is_refused_with_what_was_expected(typed: str, words: list[str]) -> None:
    with pytest.raises(SearchError if "8 words" not in words[0] else FilterError) as told:
        search.parse(typed)
    assert told.value.field == "q"
    for word in words:
        assert word in str(told.value)


def test_a_list_of_one_state_cannot_be_searched_for_another_state() -> None:
    assert search.parse("exit:1", state="dead", queue="mail") == JobFilter(state="dead", queue="mail", exit=1)
    assert search.parse("state:dead", state="dead").state == "dead"
    with pytest.raises(SearchError, match="state:failed is in the search, but the list shows state dead"):
        search.parse("state:failed", state="dead")


_values = {
    "state": st.sampled_from(STATES),
    "queue": st.from_regex(r"[a-z0-9][a-z0-9._:-]{0,8}", fullmatch=True),
    "exit": st.integers(-(2**31), 2**32 - 1),
    "worker": st.text("ab\" \\:", min_size=1, max_size=8),
    "since": st.integers(0, 2**51),
    "until": st.integers(0, 2**51),
    "error": st.text("ab: -", min_size=1, max_size=6),
    "failed_attempt": st.text("ab: -", min_size=1, max_size=6),
    "by": st.text("ab: ", min_size=1, max_size=6).map("person:".__add__),
    "notified": st.from_regex(r"[a-z0-9][a-z0-9._:-]{0,8}", fullmatch=True),
    "id": st.from_regex(r"[a-z0-9][a-z0-9._:-]{0,8}", fullmatch=True),
}  # fmt: skip


@given(
    st.fixed_dictionaries({}, optional=_values),
    st.lists(st.text("ab:/\"\\ \n\té-", min_size=1, max_size=8), max_size=filters.MAX_WORDS),
    st.lists(st.sampled_from(list(_values)), max_size=4, unique=True),
)  # fmt: skip
def test_a_filter_written_as_text_is_read_as_the_same_filter(
    values: dict[str, Any], words: list[str], excluded: list[str]
) -> None:
    typed = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    others = tuple(JobFilter(**{name: values[name]}) for name in excluded if name in values)
    wanted = replace(search.parse(typed), **values, excluded=others)
    assert filters.words(wanted.text or "") == words
    told = search.to_text(wanted)
    assert search.parse(told) == wanted
    assert search.parse(search.without(told, "state", "queue")) == search.parse(
        search.to_text(wanted, without=("state", "queue"))
    )
    assert JobFilter.from_json(wanted.to_json()) == wanted


@given(st.text(max_size=60) | st.text('ab:-" ', max_size=20))
def test_any_text_is_read_or_refused(typed: str) -> None:
    try:
        wanted = search.parse(typed)
    except FilterError:
        return
    assert search.parse(search.to_text(wanted)) == wanted


# --- what is found ---------------------------------------------------------------------------------------------------


def ids(typed: str) -> list[str]:
    with reading() as session:
        return [job.id for job in listing.page_of_jobs(session, search.parse(typed)).jobs]


@pytest.mark.usefixtures("app")
def test_each_qualifier_finds_its_jobs_and_all_must_hold() -> None:
    now = clock.now()
    make_job("dead", id="a", command="send Letter", queue="mail", exit_code=127, changed_at=now - clock.seconds(7200))
    make_job("dead", id="b", command="send parcel letter", exit_code=1, created_by="token:deploy")
    make_attempt(make_job("completed", id="c", command="echo letter send"), worker_id="web-1-x7")
    make_job("processing", id="d", command="sleep 1", worker_id="web-2-y8")
    assert ids("") == ["d", "c", "b", "a"]
    assert ids("state:dead") == ["b", "a"]
    assert ids("queue:mail") == ids("exit:127") == ids("id:a") == ["a"]
    assert ids("by:token:deploy") == ["b"]
    assert ids("since:1h") == ["d", "c", "b"]
    assert ids("worker:web-1") == ["c"]
    assert ids("worker:web-") == ["d", "c"]
    assert ids("letter SEND") == ["c", "b", "a"]
    assert ids('"send letter"') == ["a"]
    assert ids("state:dead letter exit:1 by:token:deploy") == ["b"]
    assert ids("state:dead queue:none") == ids("id:a state:failed") == []


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_words_are_found_in_errors_and_the_last_output_and_terms_can_be_excluded() -> None:
    now = clock.now()
    dead = make_job("dead", id="a", command="charge", last_error="exit 1: Card declined", exit_code=1)
    make_job("dead", id="b", command="charge", queue="mail", exit_code=None)
    retried = make_job("completed", id="c", command="charge", exit_code=0, changed_at=now - clock.DAY)
    make_job("pending", id="d", command="charge", last_error="declined")
    with writing() as session:
        for seq, tail in ((dead.seq, "ok"), (retried.seq, "declined"), (dead.seq + 1, "DECLINED by the bank")):
            session.add(OutputTail(job_seq=seq, text=tail))
    make_attempt(retried, number=1, state="failed", error="timed out after 5 s")
    make_attempt(retried, number=2, state="completed")
    change_job("c", attempts=2)
    make_attempt(dead, number=1, state="failed", error="exit 1: Card declined")
    assert ids("declined") == ["d", "b", "a"], "not the old output of a job that runs again"
    assert ids("error:declined") == ["d", "a"]
    assert ids("-error:declined") == ["c", "b"]
    assert ids("charge -declined") == ["c"]
    assert ids("-exit:1") == ["d", "c", "b"], "a job without an exit code is not excluded"
    assert ids("-queue:mail -state:pending") == ["c", "a"]
    assert ids("failed-attempt:TIMED") == ids("state:completed failed-attempt:any") == ["c"]
    assert ids("failed-attempt:any") == ["c", "a"]
    assert ids("-failed-attempt:any") == ["d", "b"]
    assert ids("until:2h") == ["c"]
    assert ids("since:2h until:2000-01-01") == []
    assert ids("-on:2000-01-01/2099-01-01") == []
    actions.apply("discard", search.parse("-error:declined charge -state:pending -queue:none"), "person:ana")
    assert ids("") == ["d", "a"]


@pytest.mark.usefixtures("app")
def test_an_action_from_before_the_search_in_output_keeps_its_jobs() -> None:
    make_job("dead", id="a", command="true", last_error="declined")
    assert JobFilter.from_json('{"state": "dead", "text": "declined"}').output is None
    actions.apply("requeue", JobFilter.from_json('{"state": "dead", "text": "declined"}'), "person:ana")
    assert ids("state:dead") == ["a"]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "typed",
    [
        "exit:4294967295",
        "exit:-2147483648",
        "since:1970-01-01",
        "since:9998-01-01",
        r'"%_\\" worker:%_\ by:x',
        "worker:é \uff1d",
    ],
)
def test_every_valid_search_works_on_both_databases(typed: str) -> None:
    for state in ("", "state:pending ", "state:dead "):
        assert ids(state + typed) == []


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("ÜBER", ["b", "a"]),
        ("über", ["b", "a"]),
        ("SSE[ü]*?", ["b"]),
        (r"^.$|(\_%/", ["b"]),
        ("οδοσ", ["c"]),
        ("ОТЧЁТ", ["c"]),
        ("straSSe", ["d"]),  # a letter is not the same as two
        ("STRAẞE", ["e"]),
        ("worker:WEB-É", ["e", "d"]),
        ("日本", ["c"]),
    ],
)
def test_case_is_ignored_alike_on_both_databases(typed: str, found: list[str]) -> None:
    make_job("completed", id="a", command="echo über")
    make_job("completed", id="b", command=r"ÜBERGRÖSSE[Ü]*? ^.$|(\_%/")
    make_job("completed", id="c", command="ΟΔΌΣ οδος отчёт 日本")
    make_attempt(make_job("dead", id="d", command="true", last_error="strasse"), worker_id="Web-é1")
    make_attempt(make_job("dead", id="e", command="straße"), worker_id="web-É2")
    with reading() as session:
        wanted = search.parse(typed)
        assert [job.id for job in listing.page_of_jobs(session, wanted).jobs] == found
    if "worker" not in typed:
        actions.apply("requeue", wanted, "person:ana")
        assert ids("state:pending") == found[::-1]


# --- the cap ---------------------------------------------------------------------------------------------------------


def _walk(wanted: JobFilter, *, limit: int, turned: bool = False, back: bool = False) -> tuple[list[str], list[Page]]:
    """All ids by going on to the end, or from there back to the beginning."""
    pages: list[Page] = []
    with reading() as session:
        key: Optional[str] = None
        while not pages or pages[-1].older:
            pages.append(listing.page_of_jobs(session, wanted, limit=limit, after=key, turned=turned))
            key = pages[-1].older
        if back:
            pages = pages[-1:]
            while pages[0].newer:
                page = listing.page_of_jobs(session, wanted, limit=limit, before=pages[0].newer, turned=turned)
                pages.insert(0, page)
    return [job.id for page in pages for job in page.jobs], pages


@pytest.mark.full
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("state", [None, "scheduled", "pending", "processing", "failed", "dead"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_search_ends_at_its_cap_and_continues_after_the_last_row_it_read(
    monkeypatch: pytest.MonkeyPatch, state: Optional[str], turned: bool
) -> None:
    luck, many = random.Random(f"{state}{turned}"), []
    for number in range(60):
        values: dict[str, Any] = {
            "run_at": luck.randint(1, 9),
            "priority": luck.randint(-1, 1),
            "id": f"job{number:02}",
        }
        values["queue"] = luck.choice(["a", "b", "c"]) if state in (None, "pending") else "a"
        if state == "processing":
            values["started_at"] = luck.randint(1, 9)
        if state == "dead":
            values["finished_at"] = luck.randint(1, 9)
        many.append({"state": state or "completed", "command": "needle" if luck.random() < 0.15 else "hay", **values})
    make_jobs(many)
    wanted = JobFilter(state=state)
    whole, _ = _walk(wanted, limit=100, turned=turned)
    assert len(whole) == 60
    assert whole == list(reversed(_walk(wanted, limit=100, turned=not turned)[0]))
    assert _walk(wanted, limit=7, turned=turned, back=True)[0] == whole
    sought = search.parse("needle", state=state)
    uncapped, pages = _walk(sought, limit=100, turned=turned)
    assert len(pages) == 1
    commands = {one["id"]: one["command"] for one in many}
    assert uncapped == [id_ for id_ in whole if commands[id_] == "needle"]
    monkeypatch.setattr(filters, "SEARCH_CAP", 12)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    for limit in (1, 2, 50):
        found, pages = _walk(sought, limit=limit, turned=turned)
        assert found == uncapped
        assert any(page.search_capped for page in pages)
        assert not pages[-1].search_capped
        back, _ = _walk(sought, limit=limit, turned=turned, back=True)
        assert back == uncapped[len(uncapped) - len(back) :]
        assert len(back) == len(uncapped) or not pages[-1].jobs  # a last page without jobs leads back to the top only


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("state", ["dead", "pending"])
def test_a_page_that_is_full_or_at_the_end_is_not_capped(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 10)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    for number in range(10):
        make_job(state, command="needle" if number % 2 else "hay")
    with reading() as session:
        sought = search.parse("needle", state=state)
        assert (
            listing.page_of_jobs(session, sought).search_capped is False
        )  # as many rows as the cap: all were looked at
        assert queries.count_found(session, sought) == (queries.Count(5), True)
    make_job(state, command="hay", run_at=1, finished_at=1 if state == "dead" else None)
    make_job(state, command="hay", run_at=1, priority=9, finished_at=1 if state == "dead" else None)
    with reading() as session:
        assert listing.page_of_jobs(session, sought).search_capped is True
        assert listing.page_of_jobs(session, sought, limit=2).search_capped is False
        counted, whole = queries.count_found(session, sought)
        assert whole is False
        assert counted.number in (4, 5)


@pytest.mark.usefixtures("app")
def test_a_search_reads_on_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 3)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 600.0)
    make_jobs([{"command": "needle" if number == 0 else "hay"} for number in range(20)])
    sought = search.parse("needle")
    with reading() as session:
        page = listing.page_of_jobs(session, sought)
        assert (len(page.jobs), page.search_capped, page.searched) == (1, False, 21)
        monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
        page = listing.page_of_jobs(session, sought)
        assert (len(page.jobs), page.search_capped, page.searched) == (0, True, 3)
        assert queries.count_found(session, sought, seconds=9) == (queries.Count(1), True)


@pytest.mark.usefixtures("app")
def test_a_search_that_an_index_answers_is_never_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 3)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    for number in range(9):
        make_job("dead", id=f"d{number}")
        make_job("pending", id=f"p{number}", queue="mail")
    for typed in ("", "state:dead", "state:pending", "state:pending queue:mail", "id:d1 exit:1"):
        wanted = search.parse(typed)
        assert not wanted.scans
        assert len(_walk(wanted, limit=100)[1]) == 1
    for typed in ("queue:mail", "state:dead queue:mail", "state:dead exit:1", "worker:x", "since:1h", "by:ana", "x"):
        assert search.parse(typed).scans


def plans(app: Flask, wanted: JobFilter, **options: Any) -> list[str]:
    """The query plans behind a page and its count."""
    found: list[str] = []
    with engines.read_engine().connect() as connection:
        session = Session(connection)
        if not engines.is_sqlite():
            for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
                session.execute(text(f"SET LOCAL {setting} = off"))

        def see(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
                found.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        listing.page_of_jobs(session, wanted, limit=2, **options)
        queries.count_found(session, wanted)
    assert found
    return found


@pytest.mark.parametrize("typed", ["", *(f"state:{state}" for state in STATES), "state:pending queue:a"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_search_reads_the_index_of_its_list_and_sorts_nothing(
    app: Flask, typed: str, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 2)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"state": state, "queue": "a"} for state in STATES for _ in range(5)])
    after = None
    for words in ("", " needle exit:1 since:1h by:ana worker:w"):
        wanted = search.parse(typed + words)
        with reading() as session:
            after = listing.page_of_jobs(session, wanted, limit=2, turned=turned).older
        for options in ({}, {"after": after}, {"before": after}):
            for plan in plans(app, wanted, turned=turned, **options):
                assert "TEMP B-TREE" not in plan
                assert "Sort" not in plan
                if wanted.state is not None:
                    assert "ix_jobs_" in plan
                elif engines.is_sqlite():
                    assert "SCAN jobs USING INDEX" not in plan.replace("SCAN jobs USING INDEX ix_jobs_system", "")
                else:
                    assert "pk_jobs" in plan or "Aggregate" in plan
