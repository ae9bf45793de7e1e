"""What a terminal would obey, and what turns a text around, is shown."""

from __future__ import annotations

import pytest

from webapp.lib.text import escaped, for_terminal
from webapp.lib.text_hostile import visible


@pytest.mark.parametrize("char", ["\x1b", "\x9b", "\r", "\u202e", "\u061c", "\u2066", "\u200b", "\ufeff"])
def test_no_control_and_no_mark_is_left_on_the_command_line_or_on_a_page(char: str) -> None:
    assert char not in escaped(f"a{char}b")
    assert char not in visible(f"a{char}b")


def test_what_holds_an_emoji_together_stays() -> None:
    family = "\U0001f468\u200d\U0001f469"
    assert escaped(family) == visible(family) == family


def test_a_terminal_gets_colours_and_lines_and_nothing_else_to_obey() -> None:
    assert for_terminal("\x1b[1;31mred\x1b[0m\tx\r\n") == "\x1b[1;31mred\x1b[0m\tx\r\n"
    assert for_terminal("\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e") == (r"\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e")
