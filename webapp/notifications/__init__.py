"""Notifications: channels, rules, and the messages that they send. See docs/architecture.md."""
