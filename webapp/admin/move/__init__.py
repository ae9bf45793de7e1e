"""Moves a queue to another database, SQLite or PostgreSQL, in either direction, and takes it back.

First the mark, then the copy. Once nothing runs, one transaction gives every table of the source triggers that refuse
each write with the new address; only then is it copied, from tables that stand still. So nothing that anybody was told
is accepted can be missed, whatever dies when, and nothing has to be followed or caught up with. The price is that the
queue takes no changes while it is copied and compared, about a minute for a million jobs; reading goes on.

The steps, each of which may be the last before a kill, and is then found as it is by the next run:

1. prepared   the source has a record of the move; the target gets empty tables, and in the place of its revision a
              word that no version of queuectl accepts: nobody can use it while it is half a copy.
2. copying    the source is marked. Batches go over with a note of how far they came; then all is compared.
3. done       the target gets its revision, and is the queue from then on; after that the source says so.

An undo goes the other way: mark the target, see that nothing was done there, take the mark off the source. So at no
moment do both take writes.
"""

from webapp.admin.move.back import undo
from webapp.admin.move.examining import Report, examine
from webapp.admin.move.forth import move
from webapp.admin.move.sides import MoveError, Side, Teller, one_at_a_time

__all__ = ["MoveError", "Report", "Side", "Teller", "examine", "move", "one_at_a_time", "undo"]
