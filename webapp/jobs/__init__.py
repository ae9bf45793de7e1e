"""What people and programs do to jobs."""
