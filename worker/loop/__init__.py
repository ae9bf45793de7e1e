"""One worker process: claims jobs and settles them."""
