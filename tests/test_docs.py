"""Links and paths in README, CHANGELOG and docs/ name files that exist."""

from __future__ import annotations

import re

from webapp.config import CHECKOUT

PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)\)")
PATH = re.compile(r"`((?:webapp|worker|templates|static|tests|deploy|docs|faults|admin|db)/[\w./-]*)`")


def test_links_lead_to_files() -> None:
    links = [(page.name, page.parent / link) for page in PAGES for link in LINK.findall(page.read_text())]
    assert [(name, str(path)) for name, path in links if not path.exists()] == []
    assert len(links) > 15


def test_paths_exist() -> None:
    """Pages about tests name paths below tests/."""
    paths = {(page.name, path) for page in PAGES for path in PATH.findall(page.read_text())}
    missing = [one for one in paths if not ((CHECKOUT / one[1]).exists() or (CHECKOUT / "tests" / one[1]).exists())]
    assert sorted(missing) == []
    assert len(paths) > 60
