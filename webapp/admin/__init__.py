"""Work on a whole installation: `doctor` and moving a queue to another database."""
