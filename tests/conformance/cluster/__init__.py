"""The same on a cluster of three nodes."""
