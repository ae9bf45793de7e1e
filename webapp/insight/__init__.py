"""Read-only views of the queue: trends, failure groups, blockers, fleet."""
