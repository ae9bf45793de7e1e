"""Control characters as escapes: what a job brings along is shown in a terminal or a log, and obeyed by neither.

How the console shows them is in `console/hostile.py`.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""The text with `\x1b` for an escape and `\n` for a newline: one line, whatever it was."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
