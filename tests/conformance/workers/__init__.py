"""The same for workers."""
