"""The worker: handlers, and the actors that feed them."""

from millstream.worker.worker import Worker

__all__ = ["Worker"]
