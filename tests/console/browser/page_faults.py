"""What no page may have, at any width and in any colour scheme: an axe violation, or content wider than the screen."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# Axe().run also returns everything that passes, which takes three times as long.
_VIOLATIONS = """async rules => {
  const {violations} = await axe.run({resultTypes: ["violations"], ...rules});
  return violations.flatMap(({id, nodes}) => nodes.slice(0, 3).map(({html}) => `${id}: ${html.slice(0, 200)}`));
}"""
_AXE = Axe().axe_script


def faults_of(page: Page, *, only_looks: bool = False) -> list[str]:
    """All faults of the current page, each with its URL. `only_looks` checks contrast and width only."""
    page.evaluate(_AXE)
    rules = {"runOnly": ["color-contrast"]} if only_looks else {}
    faults: list[str] = page.evaluate(_VIOLATIONS, rules)
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        faults.append("wider than the screen")
    return [f"{page.url}: {fault}" for fault in faults]
