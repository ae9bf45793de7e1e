"""What no page may have, at any width and in any scheme: a fault that axe can find, and words beside the screen."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# Asked for here and not by Axe().run, which has everything sent that is in good order as well: three times as long.
_VIOLATIONS = """async () => {
  const {violations} = await axe.run({resultTypes: ["violations"]});
  return violations.flatMap(({id, nodes}) => nodes.slice(0, 3).map(({html}) => `${id}: ${html.slice(0, 200)}`));
}"""
_AXE = Axe().axe_script


def faults_of(page: Page) -> list[str]:
    """What is wrong with what is on the screen now, each with the page's address."""
    page.evaluate(_AXE)
    faults: list[str] = page.evaluate(_VIOLATIONS)
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        faults.append("wider than the screen")
    return [f"{page.url}: {fault}" for fault in faults]
