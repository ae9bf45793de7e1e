"""The maintenance process: lost workers, retention, roll-ups, scaling."""
