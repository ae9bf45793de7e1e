"""What a supervisor keeps in order: lost workers, unfinished actions, roll-ups, old rows."""
