"""The text of what others have made: their exceptions may do anything when they are asked for it."""

from __future__ import annotations

__all__ = ["text_of"]


def text_of(value: object) -> str:
    """Return ``str(value)``, also when that raises."""
    try:
        return str(value)
    except Exception as problem:  # noqa: BLE001 - a foreign class may do anything
        return f"(its text cannot be had: {type(problem).__name__})"
