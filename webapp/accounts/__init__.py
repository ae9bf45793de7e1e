"""People, their sessions, programs with tokens, and what is refused to them."""
