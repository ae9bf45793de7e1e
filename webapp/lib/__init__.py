"""Pure helpers that know nothing of a queue."""
