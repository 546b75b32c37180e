# GENERATED from src/millstream/aio/__init__.py by tools/unasync.py - do not edit
"""The blocking API."""
