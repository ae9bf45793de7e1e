"""Output of attempts: colours, limits, live lines, line links, search, comparison, download."""

from __future__ import annotations

import random
import re
from typing import Optional

import pytest

from tests.console.conftest import Browser
from tests.factories import make_attempt, make_chunk, make_job
from webapp.console.display.output import ansi
from webapp.console.display.output.output_lines import (
    RenderOptions,
    after,
    around,
    before,
    find_line,
    hits,
    pattern_of,
    since,
    view_of,
)
from webapp.console.display.output.output_view import opened
from webapp.core.output import Output
from webapp.lib import clock, text_diff


def html(data: bytes) -> str:
    return ansi.line(data, ansi.PLAIN)[0]


def bare(markup: str) -> str:
    """Lines without their names and links."""
    return re.sub(r' id="[LB]\d+"|<a [^>]*></a>', "", markup)


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
def test_a_line_keeps_its_text_and_applies_colours_only(data: bytes, expected: str) -> None:
    assert html(data) == expected


def test_colours_continue_in_the_next_line_and_the_next_part() -> None:
    kept = Output(b"\x1b[32mone\ntwo\n", (15,), live=True)
    assert bare(view_of(kept).html) == '<div><span class="f2">one</span></div><div><span class="f2">two</span></div>'
    assert bare(since(kept, 9).html) == '<div><span class="f2">two</span></div>'


def test_a_huge_line_is_cut_and_the_rest_is_counted() -> None:
    text = html(b"x" * 10_000)
    assert text.startswith("x" * 4000 + "<span")
    assert "6,000 more characters" in text
    assert len(html(b"x\r" * 5000 + b"y" * 9000)) < 5000


def test_the_last_thousand_lines_are_shown_and_earlier_ones_on_request() -> None:
    data = b"".join(b"%d\n" % number for number in range(2300))
    kept = Output(data, (len(data),))
    last = view_of(kept)
    texts = re.findall(r"<div>(\d+)</div>", bare(last.html))
    assert (texts[0], texts[-1], len(texts)) == ("1300", "2299", 1000)
    shown = list(texts)
    while last.start:
        last = before(kept, last.start)
        shown = re.findall(r"<div>(\d+)</div>", bare(last.html)) + shown
    assert shown == [str(number) for number in range(2300)]


@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_parts_joined_together_equal_the_whole(steps: int) -> None:
    data = b"one\n\x1b[31mtwo\nthree\n\nfour\n"
    position, parts = 0, ""
    for end in [*range(steps, len(data), steps), len(data)]:
        piece = since(Output(data[:end], (end,), live=True), position)
        parts, position = parts + piece.html, piece.next
    assert parts == view_of(Output(data, (len(data),))).html


def test_a_gap_shows_how_many_bytes_are_left_out() -> None:
    kept = Output(b"head\nhe" + b"il\ntail\n", (15,), cut=7, dropped=5000)
    text = bare(view_of(kept).html)
    assert re.sub(r"<div( class=\"\w+\")?>|</div>", "|", text) == (
        "|head||he||5,000 bytes left out here (output limit)||il||tail|"
    )
    behind = since(kept, 7 + 5000 + 3)
    assert bare(behind.html) == "<div>tail</div>"


def test_output_deleted_by_retention_is_not_shown_as_empty() -> None:
    assert (
        view_of(Output(b"", (), cut=0, dropped=5000)).unfinished
        == '<div class="cut">5,000 bytes deleted by retention</div>'
    )


def test_lines_of_stderr_are_marked() -> None:
    kept = Output(b"out\nerr\nout\n", (4, 4, 4))
    assert bare(view_of(kept).html) == '<div>out</div><div class="err">err</div><div>out</div>'


def test_new_lines_include_the_next_position_and_no_news_is_a_204(operator: Browser) -> None:
    job = make_job("processing", id="job1")
    make_chunk(job, b"one\ntw")
    first = bare(operator.get("/job/job1/output?attempt=1&from=0", partial=True).get_data(as_text=True))
    assert first.startswith("<div>one</div>")
    assert '<div id="open" hx-swap-oob="true"><div>tw</div></div>' in first
    following = re.search(r'id="tail"[^>]*hx-get="([^"]+)"', first)
    assert following is not None
    url = following[1].replace("&amp;", "&")
    assert "from=4" in url
    assert operator.get(url, partial=True).status_code == 204
    make_chunk(job, b"o\n", position=6)
    assert bare(operator.get(url, partial=True).get_data(as_text=True)).startswith("<div>two</div>")


def test_polling_ends_with_the_attempt(operator: Browser) -> None:
    job = make_job("completed", id="job1")
    make_attempt(job, 1, "completed", output=b"one\ntwo\n")
    text = bare(operator.get("/job/job1/output?attempt=1&from=4", partial=True).get_data(as_text=True))
    assert text.startswith("<div>two</div>")
    assert 'id="tail"' in text
    assert "hx-get" not in text


@pytest.mark.parametrize(
    "url", ["attempt=9&from=0", "attempt=x", "attempt=1&from=-1", "attempt=1&from=x", "attempt=99999999999999"]
)
def test_an_invalid_position_is_refused(operator: Browser, url: str) -> None:
    make_attempt(make_job("completed", id="job1"), 1, "completed")
    assert operator.get(f"/job/job1/output?{url}").status_code in {400, 404}


def test_a_download_has_the_exact_bytes_and_is_never_rendered(operator: Browser) -> None:
    data = bytes(range(256)) + b"<script>alert(1)</script>\r\n"
    make_attempt(make_job("completed", id="a:b.c"), 1, "completed", output=data)
    response = operator.get("/job/a:b.c/download?attempt=1")
    assert response.data == data
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment; filename=a_b.c-attempt-1.log"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# --- line names ------------------------------------------------------------------------------------------------------

NUMBERED = Output(b"".join(b"line %d\n" % number for number in range(1, 3001)), (26_893,))
CUT = Output(b"one\ntwo\nthr" + b"ee\nfour\n", (19,), cut=11, dropped=1000)


def names(markup: str) -> list[str]:
    return re.findall(r'<div id="(\w+)"', markup)


def test_a_line_has_the_same_name_in_every_part() -> None:
    for stretch in (view_of(NUMBERED), before(NUMBERED, 20_000), after(NUMBERED, 9000), since(NUMBERED, 26_000)):
        shown = re.findall(r'<div id="L(\d+)"><a [^>]*data-n="(\d+)"[^>]*></a>line (\d+)</div>', stretch.html)
        assert shown
        assert all(name == number == text for name, number, text in shown)


def test_lines_after_a_gap_are_named_by_their_first_byte() -> None:
    assert names(view_of(CUT).html) == ["L1", "L2", "L3", "B1011", "B1014"]
    assert names(since(CUT, 1011).html) == ["B1011", "B1014"]


@pytest.mark.parametrize(
    ("name", "offset"),
    [("1", 0), ("L2", 4), ("L3", 8), ("L4", None), ("0", None), ("B1014", 14), ("B1016", 14), ("B1012", 11),
     ("B500", None), ("B5", 4), ("B9999", None), ("999999999999999999", None)],
)  # fmt: skip
def test_a_line_name_leads_to_its_line_or_reports_that_it_is_gone(name: str, offset: Optional[int]) -> None:
    assert find_line(CUT, name) == offset


@pytest.mark.parametrize("name", ["", "L", "x", "-1", "L1L", "1.5", "\u0661", "9" * 19])
def test_an_invalid_line_name_is_reported(name: str) -> None:
    with pytest.raises(ValueError, match="not a line name"):
        find_line(CUT, name)
    assert "does not exist" in opened(CUT, RenderOptions(1), {"line": name}).notice or not name


def test_the_last_line_gets_a_name_once_it_is_complete() -> None:
    assert names(view_of(Output(b"one\ntw", (6,), live=True)).unfinished) == []
    assert names(view_of(Output(b"one\ntw", (6,))).unfinished) == ["L2"]


def test_a_part_around_a_line_knows_what_comes_before_and_after() -> None:
    middle = around(NUMBERED, find_line(NUMBERED, "1500") or 0)
    assert (names(middle.html)[0], names(middle.html)[-1], middle.more) == ("L1250", "L2249", True)
    assert names(after(NUMBERED, middle.next).html)[0] == "L2250"
    last = around(NUMBERED, find_line(NUMBERED, "2990") or 0)
    assert (names(last.html)[0], last.more) == ("L2001", False)
    assert names(around(NUMBERED, 0).html)[0] == "L1"


def test_a_page_that_fell_behind_shows_how_many_lines_it_skips() -> None:
    assert "2,000 lines arrived too fast" in since(NUMBERED, 0).html
    assert "too fast" not in since(NUMBERED, NUMBERED.data.index(b"line 2001")).html


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text", "expected"),
    [
        (b"an Error here", "error", "an <mark>Error</mark> here"),
        (b"\x1b[31mer\x1b[0mror", "error", '<span class="f1"><mark>er</mark></span><mark>ror</mark>'),
        (b"aXbXc", "x", "a<mark>X</mark>b<mark>X</mark>c"),
        (b"xx", "x", "<mark>x</mark><mark>x</mark>"),
        (b"a<b>c", "<b>", "a<mark>&lt;b&gt;</mark>c"),
        (b"10 %\r20 %", "10", "20 %"),
        (b"a.c abc", "a.c", "<mark>a.c</mark> abc"),
    ],
)
def test_search_hits_are_marked_in_the_visible_text(data: bytes, text: str, expected: str) -> None:
    assert ansi.line(data, ansi.PLAIN, pattern_of(text))[0] == expected


def test_a_search_moves_between_matching_lines() -> None:
    kept = Output(b"fail\nok\n\x1b[1mFA\x1b[0mIL\nfa", (30,), cut=None)
    assert hits(kept, pattern_of("fail")) == [0, 8]
    second = opened(kept, RenderOptions(1), {"find": " Fail ", "hit": "2"})
    assert (second.hits, second.hit, second.marked) == (2, 2, True)
    assert second.lines.html.count("<mark>") == 3
    assert '<div id="L3" class="marked">' in second.lines.html
    for nonsense in ("0", "x", "99", "-1"):
        assert opened(kept, RenderOptions(1), {"find": "fail", "hit": nonsense}).hit in (1, 2)
    nothing = opened(kept, RenderOptions(1), {"find": "<nothing>"})
    assert "not found" in nothing.notice
    assert not nothing.marked


def test_a_search_is_limited_and_reports_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.console.display.output.output_lines.SEARCHED", 1024)
    monkeypatch.setattr("webapp.console.display.output.output_lines.MOST_HITS", 20)
    assert len(hits(NUMBERED, pattern_of("line"))) == 20
    assert hits(NUMBERED, pattern_of("line 1\n"[:-1])) == []


def test_search_works_without_javascript(viewer: Browser) -> None:
    job = make_job("dead", id="job1")
    make_attempt(job, 1, output=NUMBERED.data)
    text = viewer.get("/job/job1?find=line+1500").get_data(as_text=True)
    assert "1 of 1 line" in text
    assert 'class="marked"' in text
    assert "<mark>line 1500</mark>" in text
    assert re.search(r'href="/job/job1\?attempt=1&amp;from=\d+#output"[^>]*>Later', text)
    assert re.search(r'href="/job/job1\?attempt=1&amp;to=\d+#output"[^>]*>Earlier', text)
    assert 'id="L700"' in viewer.get("/job/job1?line=700").get_data(as_text=True)
    assert "Line 9000 does not exist. The output has 3,000 lines." in viewer.get("/job/job1?line=9000").get_data(
        as_text=True
    )
    shown = viewer.get("/job/job1?to=L1300").get_data(as_text=True)
    assert 'id="L1299"' in shown
    assert 'id="L1300"' not in shown


@pytest.mark.parametrize("query", ["to=x", "from=9999999999999999999", "line=%00", "find=%00", "against=1", "against=x",
                                   "hit=3", "find=" + "x" * 5000, "to=L99999", "from=L0"])  # fmt: skip
def test_invalid_url_parameters_are_ignored(viewer: Browser, query: str) -> None:
    make_attempt(make_job("dead", id="job1"), 1, output=b"one\n")
    assert viewer.get(f"/job/job1?attempt=1&{query}").status_code == 200


# --- two attempts ----------------------------------------------------------------------------------------------------


def test_two_attempts_are_compared_by_their_visible_text(viewer: Browser) -> None:
    job = make_job("dead", id="job1", attempts=2)
    make_attempt(job, 1, output=b"12:00 start\n\x1b[32mok\x1b[0m\nend\n")
    make_attempt(job, 2, output=b"12:07 start\nok\n<b>boom\nend")
    exact = viewer.get("/job/job1?attempt=2&against=1").get_data(as_text=True)
    assert "only in attempt 1: 1 line" in exact
    assert "only in attempt 2: 2 lines" in exact
    assert "&lt;b&gt;boom" in exact
    loose = viewer.get("/job/job1?attempt=2&against=1&digits=on").get_data(as_text=True)
    assert "only in attempt 1: 0 lines" in loose
    assert re.search(r'<tr class="new"><td class="at"></td><td class="at">3</td><td class="sign">\+</td>', loose)
    make_attempt(job, 3, output=b"13:00 start\nok\nend")
    assert "have the same output, ignoring numbers" in (
        viewer.get("/job/job1?attempt=3&against=1&digits=on").get_data(as_text=True)
    )


def signs(old: list[str], new: list[str]) -> str:
    return "".join(row.sign for row in text_diff.compare(old, new).rows)


def test_a_comparison_shows_differences_with_three_lines_of_context() -> None:
    same = [str(number) for number in range(20)]
    assert text_diff.compare(same, same).same
    assert signs(same, [*same[:10], "new", *same[10:]]) == "…   +   …"
    assert signs(["a"], ["b"]) == "-+"
    assert signs([], []) == ""
    assert signs(["x", "x"], ["x"]) == " -"


def test_a_comparison_stops_at_too_many_differences_and_reports_that() -> None:
    most = text_diff.MAX_DIFFERENT
    old, new = [f"a{number}" for number in range(most + 50)], [f"b{number}" for number in range(most + 7)]
    it = text_diff.compare(["head", *old, "end"], ["head", *new, "end"])
    assert (it.removed, it.added, it.alike, it.left_out) == (most, most, 2, 50)
    assert [row.text for row in it.rows[-2:]] == ["50 lines are not compared: too many differ", "end"]


def test_long_outputs_with_few_differences_are_compared_completely() -> None:
    old = [f"line {number}" for number in range(20_000)]
    new = list(old)
    for place in range(0, 20_000, 500):
        new[place] = "other"
    new.insert(7000, "new")
    it = text_diff.compare(old, [*new, "end"])
    assert (it.removed, it.added, it.left_out) == (40, 42, 0)


def test_a_comparison_covers_every_line_and_equal_blocks_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares pseudo-random texts in windows that are much smaller than the texts."""
    monkeypatch.setattr(text_diff, "WINDOW", 7)
    monkeypatch.setattr(text_diff, "MAX_DIFFERENT", 40)
    chance = random.Random(1)
    for _ in range(500):
        old = [chance.choice("abcdef") for _ in range(chance.randrange(60))]
        new = [line for line in old if chance.random() < 0.9] + [
            chance.choice("abx") for _ in range(chance.randrange(9))
        ]
        blocks, _ = text_diff._blocks(old, new)
        places = [(0, 0), *((block[2], block[4]) for block in blocks)]
        assert [(block[1], block[3]) for block in blocks] == places[:-1]
        assert places[-1] == (len(old), len(new))
        assert all(old[a:b] == new[c:d] for tag, a, b, c, d in blocks if tag == "equal")


def test_the_current_style_is_found_without_reading_all_output() -> None:
    far = b"\x1b[31m" + b"x" * ansi.STYLE_LOOK_BACK
    assert ansi.style_after(far, 5).ink == 1
    assert ansi.style_after(far, len(far)) == ansi.PLAIN
    near = b"\x1b[1m\x1b[0m\x1b[4mtext\x1b[m\x1b[32mgreen"
    assert ansi.style_after(near, len(near)) == ansi.Style(ink=2)
    assert ansi.style_after(near, 12) == ansi.Style(underline=True)


def test_a_line_has_the_time_of_its_first_byte() -> None:
    kept = Output(b"a\nb\nc\n", (6,), times=((2, 5), (4, 61)))
    started = clock.parse_iso("2026-11-29T06:42:07Z")
    html = view_of(kept, RenderOptions(started=started)).html
    assert re.findall(r'<span class="clock">([\d:]+)</span>', html) == ["06:42:07", "06:42:12", "06:43:08"]
    assert "clock" not in view_of(kept).html
    assert "clock" not in view_of(Output(b"a\n", (2,)), RenderOptions(started=started)).html


@pytest.mark.parametrize(
    ("data", "runs", "cut", "name"),
    [(b"a\nb\nc\n", (6,), None, ""), (b"a\nb\nc\n", (0, 6), None, "L1"), (b"a\nb\nc\n", (3, 3), None, "L2"),
     (b"a\nb\nc\nd\n", (6, 2), 4, "B106")],
)  # fmt: skip
def test_the_first_line_of_stderr_is_found(data: bytes, runs: tuple[int, ...], cut: Optional[int], name: str) -> None:
    assert opened(Output(data, runs, cut, 100 if cut else 0), RenderOptions(), {}).first_err == name
