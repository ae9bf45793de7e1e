"""Pages about limits, retry rules, chains and batches."""
