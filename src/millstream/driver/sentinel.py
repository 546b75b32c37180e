"""One Sentinel and what it says; and what to make of the answers of several."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from redis import exceptions

from millstream.driver.faults import CONNECTION_LOSS, ERROR_REPLIES, is_connection_loss
from millstream.driver.packing import pack
from millstream.protocol.op import Command

if TYPE_CHECKING:
    from millstream.driver.sentinels import Place

__all__ = ["ANSWER_TIMEOUT", "Address", "Sentinel", "Sight", "best", "shown"]

ANSWER_TIMEOUT = 1.0
"""Seconds that one may take to be connected, and to answer."""

ASK_AGAIN = 5.0
"""Seconds in which one that did not answer is not asked, unless no other one answers."""

Address = tuple[str, int]


class Sight(msgspec.Struct, frozen=True):
    """What Sentinels say.

    Attributes:
        primary: where it is.
        epoch: grows with each failover, so of two answers the one with the higher epoch is the newer.
            0: the user may not ask for it.
        down: whether the primary does not answer them.
        replicas: those that are well.
    """

    primary: Address
    epoch: int
    down: bool
    replicas: tuple[Address, ...]

    def any_replica(self) -> Address:
        """Return the address of one of the replicas; of the primary, if there is none."""
        return random.choice(self.replicas or (self.primary,))  # noqa: S311 - spreads load, no secret

    def suits(self, address: Address, epoch: int, *, replica: bool) -> bool:
        """Tell whether a connection is where it should be.

        Args:
            address: of its server.
            epoch: of what the Sentinels said when it was made. Older news is no reason to cut it.
            replica: whether it is to be a replica.
        """
        if replica:
            return address in (self.replicas or (self.primary,))
        return address == self.primary or self.epoch < epoch


class Sentinel:
    """One of them, with a connection that stays.

    Args:
        name: of the primary.
        place: where it is.
    """

    def __init__(self, name: str, place: Place) -> None:
        self._name = name
        self._place = place
        self._connection: Any = None
        self.quiet_until = 0.0
        """Time on the monotonic clock before which it need not be asked."""

    def __str__(self) -> str:
        return self._place.url

    def ask(self) -> Sight | None:
        """Ask for all; None: it does not know the name.

        Raises:
            redis-py's errors, OSError: it cannot be reached, or refuses.
        """
        verbs = ("GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS")
        address, state, replicas = self._call([("SENTINEL", verb, self._name) for verb in verbs])
        if isinstance(address, Exception):
            raise address
        if address is None:
            return None
        # Who may not ask for the rest does without it.
        told = {} if isinstance(state, Exception) else _pairs(state)
        found = [] if isinstance(replicas, Exception) else map(_pairs, replicas)
        return Sight(
            primary=_address(*address),
            epoch=int(told.get(b"config-epoch", 0)),
            down=b"_down" in told.get(b"flags", b""),
            replicas=tuple(sorted(_address(one[b"ip"], one[b"port"]) for one in _well(found))),
        )

    def names(self) -> list[str]:
        """Return what it knows; nothing, if this user may not ask."""
        [masters] = self._call([("SENTINEL", "MASTERS")])
        if isinstance(masters, Exception):
            return []
        return sorted(_pairs(one)[b"name"].decode("utf-8", "replace") for one in masters)

    def _call(self, questions: Sequence[tuple[str, ...]]) -> list[Any]:
        try:
            if self._connection is None:
                connection = self._place.blocking_connection(ANSWER_TIMEOUT, ANSWER_TIMEOUT)
                connection.connect()
                self._connection = connection
            commands = [Command(question) for question in questions]
            self._connection.send_packed_command([pack(commands)], check_health=False)
            return [self._reply() for _ in questions]
        except BaseException:
            self.close()
            raise

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ERROR_REPLIES as error:
            return error

    def close(self) -> None:
        """Disconnect; the next question connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def best(sentinels: Sequence[Sentinel], name: str) -> Sight:
    """Ask all, and return the newest answer: after a failover some hear of it later than others.

    Raises:
        redis-py's ConnectionError: none of them can be reached.
        redis-py's ResponseError: they do not know the name, or refuse to answer.
    """
    answers: list[Sight] = []
    strangers: list[Sentinel] = []
    problems: list[tuple[Sentinel, Exception]] = []
    # Those that answered the last time come first.
    for sentinel in sorted(sentinels, key=lambda one: one.quiet_until):
        if answers and sentinel.quiet_until > time.monotonic():
            continue
        try:
            answer = sentinel.ask()
        except (exceptions.RedisError, OSError) as error:
            sentinel.quiet_until = time.monotonic() + ASK_AGAIN
            problems.append((sentinel, error))
            continue
        sentinel.quiet_until = 0.0
        if answer is None:
            strangers.append(sentinel)
        else:
            answers.append(answer)
    if answers:
        return max(answers, key=lambda answer: answer.epoch)
    if strangers:
        raise _unknown(strangers[0], name)
    raise _silence(problems)


def _unknown(sentinel: Sentinel, name: str) -> Exception:
    try:
        known = ", ".join(map(repr, sentinel.names()))
    except (exceptions.RedisError, OSError):
        known = ""
    hint = f"; it knows {known}" if known else ""
    message = (
        f"ERR the Sentinel at {sentinel} knows no primary named {name!r}{hint}: correct the name"
    )
    return exceptions.ResponseError(message)


def _silence(problems: Sequence[tuple[Sentinel, Exception]]) -> Exception:
    for sentinel, error in problems:
        if not (isinstance(error, CONNECTION_LOSS) and is_connection_loss(error)):
            message = (
                f"{error}, says the Sentinel at {sentinel}: give a user of the Sentinels with "
                "sentinel_username and sentinel_password"
            )
            return type(error)(message)
    told = "; ".join(f"{sentinel}: {str(error) or 'no reply'}" for sentinel, error in problems)
    message = f"no Sentinel answers ({told}): see that they run, and that the addresses are right"
    return exceptions.ConnectionError(message)


def _well(replicas: Iterable[dict[bytes, bytes]]) -> Iterable[dict[bytes, bytes]]:
    """Choose those that answer, and hear from their primary."""
    for one in replicas:
        gone = {b"s_down", b"o_down", b"disconnected"} & {*one[b"flags"].split(b",")}
        if not gone and one.get(b"master-link-status") == b"ok":
            yield one


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _address(host: bytes, port: bytes) -> Address:
    return host.decode(), int(port)


def shown(address: Address) -> str:
    """Return an address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
