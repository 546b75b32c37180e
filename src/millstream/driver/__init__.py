"""Runs Ops on a real server: the only part of the library that imports redis."""
