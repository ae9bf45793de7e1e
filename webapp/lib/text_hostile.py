"""Characters that lie about a text: controls and marks that reorder or hide it are shown, not obeyed.

Escaping HTML is Jinja's work; this is about what stays dangerous to a reader behind it.
"""

from __future__ import annotations

import re

from webapp.lib.text import MARKS

ODD = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{MARKS}]")  # C0 but for tab and newline, DEL, C1; marks


def name_of(match: re.Match[str]) -> str:
    """One odd character as something to see: a control's picture, `U+202E`, U+FFFD for NUL."""
    char = match[0]
    code = ord(char)
    if code == 0:
        return "\ufffd"
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u2039U+{code:04X}\u203a"


def visible(text: object) -> str:
    """A text in which every odd character can be seen."""
    return ODD.sub(name_of, str(text))
