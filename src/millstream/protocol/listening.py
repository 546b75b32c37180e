"""Who listens to which channel, and what waits for them. It knows no socket, thread or event loop.

A connection in the server's subscribed mode gets messages, and answers to what it asked, in the
order of asking. The ``Switchboard`` keeps the books of one connection; each listener has a ``Box``.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

from millstream.errors import SlowListener, UsageError
from millstream.message import Missed
from millstream.protocol.ephemeral import Channel, pattern_on_cluster, verbs_for
from millstream.protocol.op import Command

__all__ = ["Box", "Ear", "Item", "OnFull", "Switchboard", "check_on_full"]

OnFull = Literal["drop_oldest", "drop_newest", "disconnect"]

Item = tuple[bytes, bytes] | Missed
"""A channel's name and a payload, or that something is missing at this place."""


def check_on_full(on_full: object) -> None:
    """Refuse what is no way to go on with a full buffer."""
    if on_full not in get_args(OnFull):
        message = f"on_full must be one of {', '.join(get_args(OnFull))}, not {on_full!r}"
        raise UsageError(message)


class Box:
    """What has come for one listener, up to a bound.

    Args:
        topic: its name, for the error.
        size: most messages.
        on_full: what becomes of a message that has no room.
    """

    def __init__(self, topic: str, size: int, on_full: OnFull) -> None:
        self.topic = topic
        self._size = size
        self._on_full = on_full
        # Two neighbours are never both a Missed, so these are bounded, too.
        self._items: deque[Item] = deque()
        self._messages = 0
        # What was dropped in front of the first item.
        self._gap: Missed | None = None
        self._error: Exception | None = None
        self.dropped = 0
        self.joined = False
        self.lost = False
        self.ended = False

    @property
    def over(self) -> bool:
        """Whether nothing may come any more."""
        return self.ended or self._error is not None

    @property
    def crowded(self) -> bool:
        """Whether it is at least half full."""
        return 2 * self._messages >= self._size

    def put(self, channel: bytes, payload: bytes) -> None:
        """Take a message, or drop one, as declared."""
        if self.over:
            return
        if self._messages == self._size:
            if not self._make_room():
                return
        else:
            self._messages += 1
        self._items.append((channel, payload))

    def _make_room(self) -> bool:
        self.dropped += 1
        if self._on_full == "drop_oldest":
            # What else the listener has not been told about this place stays known.
            self._skip_missed()
            self._items.popleft()
            self._gap = _joined(self._gap, Missed(dropped=1))
            self._skip_missed()
            return True
        if self._on_full == "drop_newest":
            self._miss(Missed(dropped=1))
        else:
            message = (
                f"topic {self.topic!r}: the listener has {self._size} messages to handle, and "
                'asked to be disconnected then (on_full="disconnect")'
            )
            self.fail(SlowListener(message, topic=self.topic, buffer=self._size))
        return False

    def _skip_missed(self) -> None:
        while self._items and isinstance(first := self._items[0], Missed):
            self._gap = _joined(self._gap, first)
            self._items.popleft()

    def _miss(self, missed: Missed) -> None:
        last = self._items.pop() if self._items and isinstance(self._items[-1], Missed) else None
        self._items.append(_joined(last if isinstance(last, Missed) else None, missed))

    def reconnected(self) -> None:
        """Note that at this place something may be missing."""
        if self.lost:
            self.lost = False
            self._miss(Missed(reconnected=True))

    def fail(self, error: Exception) -> None:
        """Let the listener have what is here, and then the error."""
        if not self.over:
            self._error = error

    def close(self) -> None:
        """Forget what is here; nothing comes any more."""
        self._items.clear()
        self._messages = 0
        self._gap = self._error = None
        self.ended = True

    def take(self) -> Item | None:
        """Return the next; None: nothing is here, at present or (see ``ended``) any more.

        Raises:
            Exception: the one of ``fail``, behind all items.
        """
        if self._gap is not None:
            gap, self._gap = self._gap, None
            return gap
        if self._items:
            item = self._items.popleft()
            if not isinstance(item, Missed):
                self._messages -= 1
            return item
        if self._error is not None:
            raise self._error
        return None


def _joined(one: Missed | None, other: Missed) -> Missed:
    """Tell of two gaps without anything between them."""
    if one is None:
        return other
    return Missed(
        dropped=one.dropped + other.dropped, reconnected=one.reconnected or other.reconnected
    )


class Ear(Protocol):
    """What a listener is to the switchboard. One that nobody holds any more has left."""

    box: Box

    def wake(self) -> None:
        """Have the listener look into its box."""
        ...


class _Line:
    """One channel and who listens to it."""

    __slots__ = ("channel", "ears", "up")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.ears: list[weakref.ref[Ear]] = []
        self.up = False

    def living(self) -> list[Ear]:
        return [ear for ref in self.ears if (ear := ref()) is not None]

    def drop(self) -> None:
        """Note that nothing comes any more; who has listened will be told when it does again."""
        for ear in self.living():
            ear.box.lost = ear.box.lost or (self.up and ear.box.joined)
        self.up = False

    def prune(self, leaving: Ear | None = None) -> None:
        self.ears = [
            ref
            for ref in self.ears
            if (ear := ref()) is not None and ear is not leaving and not ear.box.over
        ]


class _Question(NamedTuple):
    """What the server will answer, and for whom.

    Attributes:
        command: as it was sent.
        line: the channel that will be up; None: the answer does not matter.
    """

    command: Command
    line: _Line | None


class Switchboard:
    """The listeners of one connection. What is to be sent gathers until ``to_send`` is called."""

    def __init__(self) -> None:
        self._lines: dict[Channel, _Line] = {}
        self._asked: deque[_Question] = deque()
        self._out: list[Command] = []
        self._connected = self._sharded = False

    @property
    def busy(self) -> bool:
        """Whether anybody listens."""
        return bool(self._lines)

    def to_send(self) -> list[Command]:
        """Return what has gathered."""
        out, self._out = self._out, []
        return out

    def join(self, channel: Channel, ear: Ear) -> None:
        """Add a listener. Its box has ``joined`` once the server sends what is published."""
        if channel.pattern and self._sharded:
            ear.box.fail(pattern_on_cluster(ear.box.topic))
            ear.wake()
            return
        line = self._lines.get(channel)
        if line is None:
            line = self._lines[channel] = _Line(channel)
            self._ask_for(line)
        line.ears.append(weakref.ref(ear))
        if line.up:
            ear.box.joined = True

    def leave(self, channel: Channel, ear: Ear | None = None) -> None:
        """Remove a listener, and those that are gone without a word."""
        line = self._lines.get(channel)
        if line is None:
            return
        line.prune(ear)
        if not line.ears:
            del self._lines[channel]
            if self._connected:
                verb = verbs_for(channel, sharded=self._sharded).unsubscribe
                self._ask(Command((verb, channel.name)))

    def _ask_for(self, line: _Line) -> None:
        if self._connected:
            verb = verbs_for(line.channel, sharded=self._sharded).subscribe
            self._ask(Command((verb, line.channel.name)), line)

    def _ask(self, command: Command, line: _Line | None = None) -> None:
        self._asked.append(_Question(command, line))
        self._out.append(command)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._ask(Command(("PING",)))

    def connect(self, *, sharded: bool = False) -> None:
        """Begin a connection: ask for all channels.

        Args:
            sharded: whether this server shards channels. Who listens to a pattern gets an error
                then, and leaves.
        """
        self._connected, self._sharded = True, sharded
        for line in [*self._lines.values()]:
            if line.channel.pattern and sharded:
                self._let_go(line, lambda ear: ear.box.fail(pattern_on_cluster(ear.box.topic)))
            else:
                self._ask_for(line)

    def cut(self) -> None:
        """End it: whatever is published from now on is lost to all who listened."""
        self._connected = self._sharded = False
        self._asked.clear()
        self._out.clear()
        for line in self._lines.values():
            line.drop()

    def heard(self, reply: Any) -> bool:
        """Read what the server sent; tell whether a listener has half of what it can hold.

        Raises:
            IndexError: the server has answered what was not asked.
        """
        kind = reply[0] if isinstance(reply, list) else reply
        if kind in (b"message", b"smessage"):
            return self._hand_over(Channel(reply[1], pattern=False), reply[1], reply[2])
        if kind == b"pmessage":
            return self._hand_over(Channel(reply[1], pattern=True), reply[2], reply[3])
        if kind == b"sunsubscribe" and not self._has_asked("SUNSUBSCRIBE", reply[1]):
            self._moved(Channel(reply[1], pattern=False))
            return False
        line = self._asked.popleft().line
        if line is not None:
            line.up = True
            for ear in line.living():
                ear.box.joined = True
                ear.box.reconnected()
                ear.wake()
        return False

    def _has_asked(self, verb: str, name: bytes) -> bool:
        """Tell whether an answer can be that to the oldest question."""
        return bool(self._asked) and self._asked[0].command.arguments == (verb, name)

    def _moved(self, channel: Channel) -> None:
        """Ask again for a channel that the server has taken away, as another node has its slot.

        Either it has come back, and listeners get a gap, or the server refuses it.
        """
        line = self._lines.get(channel)
        if line is not None and line.up:
            line.drop()
            self._ask_for(line)

    def _hand_over(self, channel: Channel, name: bytes, payload: bytes) -> bool:
        line = self._lines.get(channel)
        if line is None:
            return False
        crowded = leaving = False
        for ref in line.ears:
            ear = ref()
            if ear is None:
                leaving = True
                continue
            box = ear.box
            box.put(name, payload)
            ear.wake()
            crowded = crowded or box.crowded
            leaving = leaving or box.over
        if leaving:
            self.leave(channel)
        return crowded

    def refused(self) -> Channel | None:
        """Return the channel that the server's error is about.

        Raises:
            IndexError: the server has refused what was not asked.
        """
        line = self._asked.popleft().line
        return None if line is None else line.channel

    def fail(self, error: Exception, channel: Channel | None = None) -> None:
        """Give all listeners, or those of a channel, an error, and let them go."""
        for line in [*self._lines.values()]:
            if channel in (None, line.channel):
                self._let_go(line, lambda ear: ear.box.fail(error))

    def _let_go(self, line: _Line, tell: Callable[[Ear], None]) -> None:
        for ear in line.living():
            tell(ear)
            ear.wake()
        del self._lines[line.channel]

    def end(self) -> None:
        """Let all listeners go."""
        for line in self._lines.values():
            for ear in line.living():
                ear.box.ended = True
                ear.wake()
        self._lines.clear()
