"""Moves a queue to another database, SQLite or PostgreSQL, and takes a move back.

The source is blocked before the copy. When no job runs, one transaction gives every table of the source triggers that
refuse each write with the new address. Then the tables are copied and compared, about a minute for a million jobs. No
accepted change can be lost, whatever process dies. Reads stay possible.

The steps; after a kill, the next run continues with the step that was not finished:

1. prepared   The source has a record of the move. The target gets empty tables and an invalid schema revision, so that
              no version of queuectl uses it.
2. copying    The source is blocked. Each batch is stored together with its progress; then all tables are compared.
3. done       The target gets its revision and is the queue from now on. Then the source records this.

An undo goes the other way: block the target, check that nothing changed there, unblock the source. At no moment do both
databases accept writes.
"""

from webapp.admin.move.checks import Report, examine
from webapp.admin.move.databases import MoveError, Reporter, Side, move_lock
from webapp.admin.move.run import move, undo

__all__ = ["MoveError", "Report", "Reporter", "Side", "examine", "move", "move_lock", "undo"]
