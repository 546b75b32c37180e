"""One connection for all that a client listens to, read by a thread. The twin of ``aio_pubsub``.

The thread alone uses the connection: TLS does not like one thread to write while another reads.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from dataclasses import replace
from typing import Any

from redis import exceptions

from millstream.driver.blocking_cluster import BlockingCluster
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.faults import (
    CONNECTION_LOSS,
    ERROR_REPLIES,
    Tries,
    forked,
    is_connection_loss,
    translate,
)
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.protocol.ephemeral import Channel, explained, sharding
from millstream.protocol.listening import Box, Item, Switchboard

__all__ = ["BlockingInbox", "BlockingPubSub"]

BEAT = 5.0
"""Seconds of silence after which the server is asked for a sign of life; without one for as long
again, the connection is given up."""

BREATH = 0.0001
"""Seconds that the thread lets others run when a listener's box is half full, once in so many
messages: else one that is fast enough would not get its turn before messages are dropped."""
BETWEEN_BREATHS = 16


class BlockingInbox:
    """What has come for one listener.

    Args:
        box: its bounds.
        lock: around all boxes of a client.
    """

    def __init__(self, box: Box, lock: Any) -> None:
        self.box = box
        self._changed = threading.Condition(lock)

    def wake(self) -> None:
        """Have the listener look."""
        self._changed.notify_all()

    def joined(self, seconds: float) -> bool:
        """Wait until the server sends what is published; False: the time is over.

        Raises:
            BrokerError: it does not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.box.joined or self.box.over, seconds):
                return False
            if not self.box.joined:
                self.box.take()
            return True

    def take(self, seconds: float) -> Item | None:
        """Wait for the next; None: the time is over, or nothing comes any more (``box.ended``).

        Raises:
            SlowListener, BrokerError: behind the last item.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while (item := self.box.take()) is None and not self.box.ended:
                left = min(end - time.monotonic(), threading.TIMEOUT_MAX)
                if left <= 0 or not self._changed.wait(left):
                    return self.box.take()
            return item


class BlockingPubSub:
    """Listens for any number of inboxes, of any number of threads.

    Args:
        server: the server, or the cluster.
        slot: of all channels; None: the server has no slots.
        connect_timeout: seconds to connect and log in.
        timeout: seconds in which a lost connection must be back.
        beat: see ``BEAT``.
    """

    def __init__(
        self,
        server: BlockingServer | BlockingCluster,
        slot: int | None = None,
        *,
        connect_timeout: float,
        timeout: float,
        beat: float = BEAT,
    ) -> None:
        self._server = server
        self._url = server.target.url
        # It stands for all that is asked here.
        self._op = replace(sharding(), near=slot)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._beat = beat
        self._clustered = slot is not None
        self._pid = os.getpid()
        # Also around all boxes. A signal handler may close what its own thread uses.
        self._lock = threading.RLock()
        self._board = Switchboard()
        self._thread: threading.Thread | None = None
        # A byte in it wakes the thread.
        self._bell, self._ring = socket.socketpair()
        for end in (self._bell, self._ring):
            end.settimeout(0)
        self._closing = threading.Event()
        self._served = False

    def inbox(self, box: Box) -> BlockingInbox:
        """Return what a listener needs."""
        return BlockingInbox(box, self._lock)

    def join(self, channel: Channel, inbox: BlockingInbox) -> None:
        """Listen to a channel. When it returns, nothing that is published is missed.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
            ServerRefused: the user may not listen to it, or another node of the cluster has it.
            UsageError: it is a pattern, and the server shards channels.
        """
        if os.getpid() != self._pid:
            # The thread is in the parent.
            raise forked()
        with self._lock:
            if self._closing.is_set():
                inbox.box.ended = True
                return
            self._board.join(channel, inbox)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="millstream-pubsub", daemon=True
                )
                self._thread.start()
            self._wake()
        try:
            if not inbox.joined(self._timeout + 1):
                # It is connected, and the server does not answer.
                raise translate(TimeoutError("no reply"), self._url)
        finally:
            if not inbox.box.joined:
                self.leave(channel, inbox)

    def leave(self, channel: Channel, inbox: BlockingInbox) -> None:
        """Listen no more."""
        with self._lock:
            inbox.box.close()
            inbox.wake()
            self._board.leave(channel, inbox)
            self._wake()

    def close(self) -> None:
        """Let all listeners go, and disconnect. Safe to repeat."""
        with self._lock:
            self._closing.set()
            self._board.end()
            thread, self._thread = self._thread, None
            self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._connect_timeout)
        self._bell.close()
        self._ring.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full, or closed: nobody needs to be woken
            self._ring.send(b"\0")

    def _run(self) -> None:
        """Stay connected while anybody listens."""
        tries = Tries(time.monotonic() + self._timeout)
        try:
            while self._wanted():
                self._served = False
                try:
                    self._serve()
                except (exceptions.RedisError, OSError) as error:
                    if self._served:
                        tries = Tries(time.monotonic() + self._timeout)
                    problem = self._server.explain(error, self._op)
                    again = isinstance(problem, NotConnected | TimedOut)
                    pause = tries.next_pause(time.monotonic()) if again else None
                    if pause is None:
                        raise problem from error
                    self._closing.wait(pause)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who listen must know
            with self._lock:
                self._thread = None
                self._board.fail(error)

    def _wanted(self) -> bool:
        """Tell whether anybody listens; if not, the next who does starts another thread."""
        with self._lock:
            wanted = self._board.busy and not self._closing.is_set()
            if not wanted:
                self._thread = None
            return wanted

    def _serve(self) -> None:
        """Connect, and read until the connection is lost, or the client is closed."""
        target = self._server.target_for(self._op)
        connection = target.blocking_connection(self._connect_timeout, self._connect_timeout)
        try:
            self._connect(connection, target)
            sharded = self._ask_sharded(connection)
            with self._lock:
                self._board.connect(sharded=sharded)
            self._listen(connection)
        finally:
            with self._lock:
                self._board.cut()
            connection.disconnect()

    def _connect(self, connection: Any, target: Target) -> None:
        try:
            target.connect_blocking(connection)
        except CONNECTION_LOSS as error:
            embedded = target.embedded
            if embedded is not None and is_connection_loss(error):
                embedded.revive(timeout=self._connect_timeout)
            raise

    def _ask_sharded(self, connection: Any) -> bool:
        # Each connection may be to another server.
        op = self._op
        connection.send_packed_command([pack(op.commands)], check_health=False)
        try:
            reply = connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ERROR_REPLIES as error:
            reply = error
        return op.decode([reply])

    def _listen(self, connection: Any) -> None:
        asked = False
        with selectors.DefaultSelector() as selector:
            selector.register(connection._sock, selectors.EVENT_READ)  # noqa: SLF001 - redis-py waits for one socket only
            selector.register(self._bell, selectors.EVENT_READ)
            self._flush(connection)
            while not (self._closing.is_set() or self._is_over()):
                readable = [key.fileobj for key, _ in selector.select(self._beat)]
                if self._bell in readable:
                    self._bell.recv(4096)
                if len(readable) > (self._bell in readable):
                    asked = False
                    self._read(connection)
                elif not readable:
                    if asked:
                        message = "it shows no sign of life"
                        raise TimeoutError(message)
                    asked = True
                    with self._lock:
                        self._board.ping()
                self._flush(connection)

    def _is_over(self) -> bool:
        """Tell whether nobody listens any more, on a cluster: there is a connection for each slot."""
        with self._lock:
            return self._clustered and not self._board.busy

    def _read(self, connection: Any) -> None:
        """Read all that is there."""
        crowded = 0
        while connection.can_read(0) and not self._closing.is_set():
            try:
                reply = connection.read_response(disable_decoding=True, disconnect_on_error=False)
                self._served = True
                with self._lock:
                    crowded += self._board.heard(reply)
            except ERROR_REPLIES as error:
                self._refused(error)
            except IndexError as error:
                message = "an answer that nobody asked for"
                raise exceptions.ConnectionError(message) from error
            # A flood must not keep others from coming and going.
            self._flush(connection)
            if crowded == BETWEEN_BREATHS:
                crowded = 0
                time.sleep(BREATH)

    def _flush(self, connection: Any) -> None:
        """Write what the board wants to be sent."""
        with self._lock:
            commands = self._board.to_send()
        if commands:
            connection.send_packed_command([pack(commands)], check_health=False)

    def _refused(self, error: Exception) -> None:
        with self._lock:
            try:
                channel = self._board.refused()
            except IndexError:
                message = f"a refusal of what nobody asked for: {error}"
                raise exceptions.ConnectionError(message) from error
            if channel is None:
                return
            problem = self._server.explain(error, self._op)
            if isinstance(problem, NotConnected) and (self._clustered or not self._served):
                # A node of a cluster that has just started serves no channel for some seconds, and
                # one that has given the slot away will not again.
                raise error
            if isinstance(problem, ServerRefused):
                problem = explained(problem, channel.name)
            self._board.fail(problem, channel)
