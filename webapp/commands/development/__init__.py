"""Commands for those who work on queuectl or try it."""
