"""Commits of deliveries that handlers are at, or have left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from millstream.aio.commits import Commits
from millstream.protocol.draft import Draft
from millstream.protocol.settlement import Settlement
from millstream.protocol.transaction import Committed

__all__ = ["Committing"]


class Committing:
    """The commits of one consumer that are on the wire, for those who wait to know how they end.

    A handler may come to its end before its commit, when it has begun that in a task of its own. What
    becomes of the message then hangs on the commit.

    Args:
        commits: makes them.

    Attributes:
        ends: of each delivery whose commit is on the wire: why it has failed, or None.
    """

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self.ends: dict[bytes, asyncio.Future[BaseException | None]] = {}

    async def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says; see ``Commits.commit``."""
        ended = self.ends[end.token] = asyncio.get_running_loop().create_future()
        problem: BaseException | None = None
        try:
            return await self._commits.commit(end, draft)
        except BaseException as error:
            problem = error
            raise
        finally:
            del self.ends[end.token]
            ended.set_result(problem)

    async def decided(self, tokens: Iterable[bytes]) -> None:
        """Wait for the commits of these.

        Raises:
            Whatever one of them has failed with.
        """
        waiting = [self.ends[token] for token in tokens if token in self.ends]
        if waiting:
            await asyncio.wait(waiting)
        for one in waiting:
            if (problem := one.result()) is not None:
                raise problem
