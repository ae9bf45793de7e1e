"""What an attacker would send, over real HTTP, and what must come back. See docs/SECURITY.md for what is promised."""
