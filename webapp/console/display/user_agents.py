"""A short name for a User-Agent: 'Firefox 128 on Linux'. For display only."""

from __future__ import annotations

import re
from typing import Optional

from webapp.lib.text import shorten

# The first match counts: most browsers also name other browsers.
_BROWSERS = (
    ("Edge", re.compile(r"Edg(?:e|A|iOS)?/(\d+)")),
    ("Opera", re.compile(r"(?:OPR|Opera)/(\d+)")),
    ("Samsung Internet", re.compile(r"SamsungBrowser/(\d+)")),
    ("Firefox", re.compile(r"(?:Firefox|FxiOS)/(\d+)")),
    ("Chrome", re.compile(r"(?:HeadlessChrome|Chrome|CriOS|Chromium)/(\d+)")),
    ("Safari", re.compile(r"Version/(\d+)\S* .*Safari/")),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
UNKNOWN_LIMIT = 40


def short(agent: Optional[str]) -> str:
    """A User-Agent as short text. Unknown ones are shown as they are, cut."""
    text = (agent or "").strip()
    if not text:
        return "unknown browser"
    browser = next((f"{name} {found[1]}" for name, looks in _BROWSERS if (found := looks.search(text))), "")
    system = next((name for part, name in _SYSTEMS if part in text), "")
    if not browser:
        return shorten(text, UNKNOWN_LIMIT)
    return f"{browser} on {system}" if system else browser
