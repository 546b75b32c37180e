"""The functions that users hand over: of which kind they are, what they take, and what they return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from millstream.errors import UsageError

__all__ = [
    "check_arguments",
    "check_done",
    "check_hook",
    "check_plain",
    "is_coroutine",
    "name_of",
    "returning",
    "suspends",
    "takes_two",
    "yields",
]

_GENERATORS = frozenset({GeneratorType, AsyncGeneratorType})


def name_of(function: object) -> str:
    """Return what errors and logs call a function."""
    name: str = getattr(function, "__qualname__", None) or repr(function)
    return name


def _kinds(function: object) -> tuple[Any, ...]:
    """Return what tells of which kind a function is: an object may be a handler."""
    if inspect.isclass(function):
        return (function,)
    return (function, getattr(function, "__call__", None))  # noqa: B004 - it is looked at, not called


def yields(function: object) -> bool:
    """Tell whether a call makes a generator."""
    return any(
        inspect.isgeneratorfunction(it) or inspect.isasyncgenfunction(it) for it in _kinds(function)
    )


def suspends(function: object) -> bool:
    """Tell whether the body of a function runs in an event loop."""
    return any(
        inspect.iscoroutinefunction(it) or inspect.isasyncgenfunction(it) for it in _kinds(function)
    )


def _inmost(function: Any) -> Any:
    """Return what the decorators of a function are around."""
    try:
        return inspect.unwrap(function)
    except ValueError:
        return function  # it is around itself


def _check_no_class(function: object, where: str) -> None:
    """Refuse a class: called, it makes an object that does nothing by that."""
    if inspect.isclass(function):
        message = f"{where}: it is a class: pass a function, or an object with __call__"
        raise UsageError(message)


def _check_callable(function: object, where: str) -> None:
    if not callable(function):
        message = f"{where}: it is no function"
        raise UsageError(message)


def check_plain(function: object, where: str) -> None:
    """Refuse what is no function, and what only looks like a plain one.

    Raises:
        UsageError: called, it would make a coroutine that nobody awaits, and every message would be lost.
    """
    _check_callable(function, where)
    inmost = _inmost(function)
    if suspends(function) or yields(function) or not (suspends(inmost) or yields(inmost)):
        return
    kind = "a generator" if yields(inmost) else "an async def"
    message = (
        f"{where}: a decorator has put a plain function around {kind}, which would never run. "
        "Let the decorator's own function be of the same kind, or mark it with "
        "inspect.markcoroutinefunction (Python 3.12) if it returns the coroutine. If it runs the coroutine "
        "itself, delete its __wrapped__"
    )
    raise UsageError(message)


def is_coroutine(function: Callable[..., Any], name: str, *, may_yield: bool = False) -> bool:
    """Tell whether a handler is an ``async def``, or an object that is called as one.

    Args:
        function: the handler.
        name: of it, for the error.
        may_yield: whether it may be a generator.

    Raises:
        UsageError: it can be no handler.
    """
    _check_no_class(function, f"worker.on({name})")
    check_plain(function, f"worker.on({name})")
    if not may_yield and yields(function):
        # Called, it would only make a generator, and every message would be lost.
        message = f"worker.on: {name} yields; the handler of a queue must return"
        raise UsageError(message)
    return suspends(function)


def returning(function: Callable[..., Any], verb: str = "on") -> Callable[..., Any]:
    """Have a plain function fail that returns something still to be run: a coroutine, or a generator.

    Its message would be acknowledged, and nothing of it done.

    Args:
        function: a handler, or what makes bodies.
        verb: what it was declared with, for the error.
    """

    @functools.wraps(function, updated=())
    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        # Most return nothing, and a class takes longer to tell what it has not.
        if result is not None:
            check_done(function, result, verb)
        return result

    return call


def check_done(function: object, result: object, verb: str = "on") -> None:
    """Refuse what a function has returned that is still to be run: its message is not handled.

    Args:
        function: a handler, or what makes bodies.
        result: is not None.
        verb: what it was declared with, for the error.

    Raises:
        UsageError: it is a coroutine, another awaitable, or a generator.
    """
    if not hasattr(result, "__await__") and type(result) not in _GENERATORS:
        return
    if type(result) not in _GENERATORS and not hasattr(type(result), "__await__"):
        return  # an object that has every attribute
    if isinstance(result, Coroutine | GeneratorType):
        # Python would warn that nobody has awaited it.
        result.close()
    what = f"has returned an object of the type {type(result).__name__}, which nobody awaits"
    advice = "await it there"
    if not suspends(function):
        advice = (
            "declare an async def and await it there. A decorator around an async def must "
            "be an async def, too, or be marked with inspect.markcoroutinefunction (Python 3.12)"
        )
    message = f"worker.{verb}({name_of(function)}): the function {what}: {advice}"
    raise UsageError(message)


def check_hook(function: object, where: str, parameters: str = "", count: int = 0) -> None:
    """Refuse what is no ``async def`` of so many parameters.

    Args:
        function: as declared.
        where: of the declaration, for the error.
        parameters: what it takes, for the error.
        count: how many that are.

    Raises:
        UsageError: it cannot be awaited, or not be called so.
    """
    _check_no_class(function, where)
    _check_callable(function, where)
    # A decorator may be around it: what it returns is awaited in any case.
    if yields(function) or not (suspends(function) or suspends(_inmost(function))):
        message = f"{where}: it must be an async def"
        raise UsageError(message)
    check_arguments(function, where, parameters, count)


def check_arguments(function: Any, where: str, parameters: str = "", count: int = 0) -> None:
    """Refuse a function that cannot be called with so many arguments.

    Raises:
        UsageError: it names the parameters that are expected.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some that are written in C do not tell
    try:
        signature.bind(*range(count))
    except TypeError as error:
        wanted = f"take {parameters}" if count else "have no parameters"
        message = f"{where}: it must {wanted}, not {signature}"
        raise UsageError(message) from error


def takes_two(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a second parameter can be passed by position, beside the body.

    Raises:
        UsageError: it needs more, or takes nothing, or does not tell.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        message = f"worker.on: {name} does not tell its parameters: put a function around it"
        raise UsageError(message) from error
    required = 0
    possible = 0
    for parameter in signature.parameters.values():
        if parameter.kind in kinds:
            possible += 1
            required += parameter.default is inspect.Parameter.empty
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            possible += 2
        elif (
            parameter.kind is inspect.Parameter.KEYWORD_ONLY
            and parameter.default is inspect.Parameter.empty
        ):
            possible = 0
            break
    count = max(required, 1)
    if not count <= possible or count > 2:  # noqa: PLR2004 - body and delivery
        message = f"worker.on: {name}{signature} must take a body, or a body and a delivery"
        raise UsageError(message)
    return count == 2  # noqa: PLR2004 - body and delivery
