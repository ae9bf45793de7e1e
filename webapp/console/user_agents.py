"""What a browser calls itself, in a few words: 'Firefox 128 on Linux'. A guess for people; nothing is decided by it."""

from __future__ import annotations

import re
from typing import Optional

from webapp.lib.text import shorten

# The first that is found counts: most browsers also name those that they want to be taken for.
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
_LONGEST = 40


def short(agent: Optional[str]) -> str:
    """A User-Agent for people; one of no browser that is known is shown as it came, cut."""
    text = (agent or "").strip()
    if not text:
        return "an unnamed browser"
    browser = next((f"{name} {found[1]}" for name, looks in _BROWSERS if (found := looks.search(text))), "")
    system = next((name for part, name in _SYSTEMS if part in text), "")
    if not browser:
        return shorten(text, _LONGEST)
    return f"{browser} on {system}" if system else browser
