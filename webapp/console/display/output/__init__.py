"""A command's output as HTML."""
