"""URLs that are secrets, in a form for logs and pages."""

from __future__ import annotations

from urllib.parse import urlsplit

HIDDEN = "…"


def masked(url: str) -> str:
    """Scheme, host and port; the rest may be a key."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{parts.port}' if parts.port else ''}/{HIDDEN}"
