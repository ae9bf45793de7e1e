"""Limits, unique keys, chains and batches, as people and pages see them; the rules are in webapp/core/flow."""
