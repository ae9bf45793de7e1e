"""Makes the virtual environment and enters it. Standard library only."""
