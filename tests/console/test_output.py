"""Output: colours as classes, nothing obeyed, nothing lost; what is new, what was before, and the bytes themselves."""

from __future__ import annotations

import re

import pytest

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_chunk, make_job
from webapp.console import ansi
from webapp.console.output import before, since, view_of
from webapp.story import Output


def html(data: bytes) -> str:
    return ansi.line(data, ansi.PLAIN)[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain", "plain"),
        (b"<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        (b"\x1b[31mred\x1b[0m on", '<span class="f1">red</span> on'),
        (b"\x1b[1;4;97;44mx", '<span class="f15 g4 bo un">x</span>'),
        (b"\x1b[38;5;208mx\x1b[39my", '<span class="f208">x</span>y'),
        (b"\x1b[38;2;255;0;0mx", '<span class="f196">x</span>'),
        (b"\x1b[38;2;128;128;128mx", '<span class="f244">x</span>'),
        (b"\x1b[38:5:9mx", '<span class="f9">x</span>'),
        (b"\x1b[38;5;999mx\x1b[mx", "xx"),
        (b"\x1b[7mx\x1b[27my", '<span class="inv">x</span>y'),
        (b"a\x1b[2J\x1b[10;10Hb\x1b[?25lc", "abc"),
        (b"a\x1b]0;title\x07b\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\c", "ablinkc"),
        (b"a\x1bPq#0\x1b\\b\x1b(Bc\x1b=d", "abcd"),
        (b"a\x1b[31", "a"),
        (b"a\x1b", "a"),
        (b"a\x00b\xff\xfe", "a\ufffdb\ufffd\ufffd"),
        (b"10 %\r20 %", "20 %"),
        (b"long text\rab", "abng text"),
        (b"dos\r", "dos"),
        (b"ab\bc", "ac"),
        ("\u202eevil\u2066".encode(), "\u2039U+202E\u203aevil\u2039U+2066\u203a"),
        (b"\x07\x7f", "\u2407\u2421"),
        ("\u0085".encode(), "\u2039U+0085\u203a"),
        ("\u009b31mx".encode(), '<span class="f1">x</span>'),
        ("👩‍🚀".encode(), "👩‍🚀"),
    ],
)
def test_a_line_shows_what_was_written_and_obeys_colours_only(data: bytes, expected: str) -> None:
    assert html(data) == expected


def test_colours_go_on_into_the_next_line_and_the_next_stretch() -> None:
    kept = Output(b"\x1b[32mone\ntwo\n", (15,), live=True)
    assert str(view_of(kept).html) == '<div><span class="f2">one</span></div><div><span class="f2">two</span></div>'
    assert str(since(kept, 9).html) == '<div><span class="f2">two</span></div>'


def test_a_huge_line_is_cut_and_the_rest_counted() -> None:
    text = html(b"x" * 10_000)
    assert text.startswith("x" * 4000 + "<span")
    assert "6,000 more characters" in text
    assert len(html(b"x\r" * 5000 + b"y" * 9000)) < 5000


def test_the_last_thousand_lines_are_shown_and_the_others_before_them() -> None:
    data = b"".join(b"%d\n" % number for number in range(2300))
    kept = Output(data, (len(data),))
    last = view_of(kept)
    texts = re.findall(r"<div>(\d+)</div>", last.html)
    assert (texts[0], texts[-1], len(texts)) == ("1300", "2299", 1000)
    shown = list(texts)
    while last.start:
        last = before(kept, last.start)
        shown = re.findall(r"<div>(\d+)</div>", last.html) + shown
    assert shown == [str(number) for number in range(2300)]


@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_pieces_put_together_are_the_whole(steps: int) -> None:
    data = b"one\n\x1b[31mtwo\nthree\n\nfour\n"
    position, parts = 0, ""
    for end in [*range(steps, len(data), steps), len(data)]:
        piece = since(Output(data[:end], (end,), live=True), position)
        parts, position = parts + piece.html, piece.next
    assert parts == view_of(Output(data, (len(data),))).html


def test_where_bytes_were_left_out_a_line_says_how_many() -> None:
    kept = Output(b"head\nhe" + b"il\ntail\n", (15,), cut=7, dropped=5000)
    text = view_of(kept).html
    assert re.sub(r"<div( class=\"\w+\")?>|</div>", "|", text) == (
        "|head||he||5,000 bytes were left out here: the output is longer than the limit||il||tail|"
    )
    behind = since(kept, 7 + 5000 + 3)
    assert str(behind.html) == "<div>tail</div>"


def test_lines_of_stderr_are_marked() -> None:
    kept = Output(b"out\nerr\nout\n", (4, 4, 4))
    assert str(view_of(kept).html) == '<div>out</div><div class="err">err</div><div>out</div>'


def test_new_lines_come_with_the_place_of_the_next_and_nothing_new_is_a_204(operator: Browser) -> None:
    job = make_job("processing", id="job1")
    make_chunk(job, b"one\ntw")
    first = operator.get("/job/job1/output?attempt=1&from=0", partial=True).get_data(as_text=True)
    assert first.startswith("<div>one</div>")
    assert '<div id="open" hx-swap-oob="true"><div>tw</div></div>' in first
    following = re.search(r'id="tail"[^>]*hx-get="([^"]+)"', first)
    assert following is not None
    url = following[1].replace("&amp;", "&")
    assert "from=4" in url
    assert operator.get(url, partial=True).status_code == 204
    make_chunk(job, b"o\n", position=6)
    assert operator.get(url, partial=True).get_data(as_text=True).startswith("<div>two</div>")


def test_the_tail_ends_with_the_attempt(operator: Browser) -> None:
    job = make_job("completed", id="job1")
    make_attempt(job, 1, "completed", output=b"one\ntwo\n")
    text = operator.get("/job/job1/output?attempt=1&from=4", partial=True).get_data(as_text=True)
    assert text.startswith("<div>two</div>")
    assert 'id="tail"' in text
    assert "hx-get" not in text


@pytest.mark.parametrize(
    "url", ["attempt=9&from=0", "attempt=x", "attempt=1&from=-1", "attempt=1&from=x", "attempt=99999999999999"]
)
def test_a_place_that_is_none_is_refused(operator: Browser, url: str) -> None:
    make_attempt(make_job("completed", id="job1"), 1, "completed")
    assert operator.get(f"/job/job1/output?{url}").status_code in {400, 404}


def test_a_download_has_the_very_bytes_and_is_never_a_page(operator: Browser) -> None:
    data = bytes(range(256)) + b"<script>alert(1)</script>\r\n"
    make_attempt(make_job("completed", id="a:b.c"), 1, "completed", output=data)
    response = operator.get("/job/a:b.c/download?attempt=1")
    assert response.data == data
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment; filename=a_b.c-attempt-1.log"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
