"""Actions of users and programs on jobs, and how to find jobs."""
