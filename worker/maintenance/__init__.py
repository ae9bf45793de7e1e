"""Upkeep of the queue beside the workers: lost workers, unfinished actions, roll-ups, old rows."""
