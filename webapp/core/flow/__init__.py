"""How jobs depend on each other: dependencies and batches. Plain SQL, for enqueue, workers and maintenance."""
