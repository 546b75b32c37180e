"""Notes of progress on their way to who watches a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from millstream.driver.aio_letterbox import AsyncLetterbox
from millstream.protocol.mailbox import Item

__all__ = ["Notes"]

MOST = 1000
"""Notes that wait for a callback. Progress is no stream: when more come, the oldest are dropped."""

_NEWS = Item("notes", b"")


class Notes:
    """Gets what comes of a request whose caller watches: notes wait here, all else in its box.

    Args:
        box: of the request; it has one word for all notes that wait.
    """

    __slots__ = ("_box", "_notes", "_numbers", "_told")

    def __init__(self, box: AsyncLetterbox[Item | BaseException]) -> None:
        self._box = box
        self._notes: deque[Item] = deque(maxlen=MOST)
        # The last one of each run of the handler.
        self._numbers: dict[str, int] = {}
        self._told = False

    def put(self, item: Item | Exception) -> None:
        """Get something. It does not wait."""
        if isinstance(item, Exception) or item.kind != "note":
            self._box.put(item)
            return
        self._notes.append(item)
        if not self._told:
            self._told = True
            self._box.put(_NEWS)

    def take(self) -> Iterator[bytes]:
        """Take what waits, in order and each once."""
        # Before they are taken: there is word again of what comes meanwhile.
        self._told = False
        while self._notes:
            item = self._notes.popleft()
            # A lost connection may bring them twice; another run begins anew.
            if not 0 < item.number <= self._numbers.get(item.sender, 0):
                self._numbers[item.sender] = item.number
                yield item.content
