"""Control characters as escapes: what a job brings along is shown in a terminal or a log, and obeyed by neither.

How the console shows them is in `console/hostile.py`.
"""

from __future__ import annotations

import re

# Marks, embeddings, overrides and isolates that turn the direction of a text, and what takes no room in it. Not the
# zero-width joiner, which holds together what people read as one emoji.
MARKS = "\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f{MARKS}]")
# What a terminal may obey: colours and other looks, a tab, the end and the beginning of a line.
_LOOKS = re.compile("(\x1b\\[[0-9;:]*m|[\t\n\r])")


def escaped(text: str) -> str:
    r"""The text with `\x1b` for an escape and `\n` for a newline: one line, whatever it was."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def for_terminal(text: str) -> str:
    """Output with its colours; what else it would make a terminal do (links, titles, the clipboard) as escapes."""
    return "".join(part if place % 2 else escaped(part) for place, part in enumerate(_LOOKS.split(text)))
