"""Actions and views for limits, unique keys, chains and batches; the rules are in webapp/core/flow."""
