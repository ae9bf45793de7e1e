"""`doctor`: is this machine fit for it, and is all well? What is looked at stands in `webapp/admin/doctor.py`."""

from __future__ import annotations

import click

from webapp.commands.shared.core import json_option
from webapp.commands.shared.output import STYLES, print_json, show


@click.command(epilog="Example: manage.py doctor --json")
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine and this installation. Ends with 1 where something must be mended."""
    from webapp.admin import doctor as checkup
    from worker.runner import limits

    findings = [checkup.Finding("job limits", "ok", f"set here: {limits.describe()}"), *checkup.examine()]
    if as_json:
        print_json(
            [
                {"check": one.check, "result": one.result, "detail": one.detail, "advice": one.advice or None}
                for one in findings
            ]
        )
    else:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for one in findings:
            words = one.detail + (f" {one.advice}" if one.advice else "")
            grid.add_row(Text(one.result, style=STYLES[one.result]), one.check, Text(words))
        show(grid)
    return 1 if any(one.result == "fail" for one in findings) else 0
