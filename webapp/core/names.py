"""The rule for names: of jobs, queues, channels, labels and keys."""

from __future__ import annotations

import json
import re

from webapp.lib.text import shorten

SHOWN = 60  # characters of a key or value in a message
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")
NAME_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit"


def show(value: object) -> str:
    """A value for a message: short, and in ASCII."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return shorten(ascii(text) if isinstance(value, str) else text, SHOWN)
