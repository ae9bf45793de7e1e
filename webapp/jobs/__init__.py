"""What people and programs do to jobs, and how they find them."""
