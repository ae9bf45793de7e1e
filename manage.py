#!/usr/bin/env python3
"""The one door: check the Python, enter the virtual environment (made on first use), hand over to webapp.commands.

This file must parse on any Python that may be called python3, so that an old one gets a sentence and not a
SyntaxError: no f-strings and no annotations here. What it imports may use all that Python 3.9 has.
"""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036 - for those who start it with an older one
    sys.stderr.write(
        "manage.py: needs Python 3.9 or newer, and " + str(sys.executable) + " is " + sys.version.split()[0] + ". "
        "Start it with a newer one, for example: python3.11 manage.py\n"
    )
    sys.exit(1)

if __name__ == "__main__":
    checkout = os.path.dirname(os.path.realpath(__file__))
    sys.path.insert(0, checkout)
    try:
        from webapp.bootstrap.enter import enter_venv

        enter_venv(checkout, sys.argv[1:])

        from webapp.commands import main

        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
