"""Runs a command without making the virtual environment: for manage.py's hand-over and our child processes.

The script's folder must not stay on the path: its `queue.py` would hide the module of the standard library.
"""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

if __name__ == "__main__":
    from webapp.bootstrap.enter import mark_in_use, prefer_locked_packages, undo_locale_coercion
    from webapp.commands import main

    undo_locale_coercion()
    mark_in_use(os.path.realpath(sys.prefix))
    prefer_locked_packages(sys.path[0])
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
