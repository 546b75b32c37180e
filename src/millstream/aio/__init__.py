"""The asyncio API. ``millstream.sync`` is generated from this package."""
