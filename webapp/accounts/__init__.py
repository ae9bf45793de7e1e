"""Users, sessions, tokens, log-in throttling, saved searches."""
