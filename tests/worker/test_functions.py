"""Functions that would lose messages in silence, or could not be called, are refused."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

import millstream as ms
from tests.support.served import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, run_burst, running

Function = Callable[..., Any]

TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)


def traced(function: Function) -> Function:
    """An ordinary decorator, made for plain functions."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class TestPlainFunctionsThatReturnWhatIsToBeRun:
    """Nobody would run it, and the message would count as handled."""

    def returners(self, ran: list[Any]) -> list[Function]:
        """Plain functions that leave work to somebody else."""

        async def work(body: Any) -> None:
            ran.append(body)

        async def parts(body: Any) -> Any:
            ran.append(body)
            yield body

        def steps(body: Any) -> Any:
            ran.append(body)
            yield body

        def forgets(body: Any) -> Any:
            return work(body)

        def sleeps(body: Any) -> Any:
            return asyncio.sleep(0)

        return [
            forgets,
            sleeps,
            functools.partial(lambda _, body: parts(body), 5),
            functools.partial(lambda _, body: steps(body), 5),
            functools.partial(lambda _, body: work(body), 5),
        ]

    @pytest.mark.parametrize("which", range(5))
    async def test_in_a_queue(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], which: int
    ) -> None:
        """The message fails, and its error says what to do; nothing is left that Python warns of."""
        ran: list[Any] = []
        worker.on(queue)(self.returners(ran)[which])

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        (letter,) = await mq.dead(queue)
        assert letter.reason == "attempts"
        assert "UsageError" in str(letter.error)
        assert "declare an async def" in str(letter.error)
        assert (await mq.stats(queue)).acked == 0
        assert ran == []

    async def test_with_a_delivery_in_batches(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """So do those of a batch."""

        @worker.on(queue, batch=10)
        def handle(bodies: list[Any], deliveries: Any) -> Any:
            return asyncio.sleep(0)

        await mq.send_many(queue, [1, 2])
        await run_burst(worker, mq)

        assert ["declare an async def" in str(one.error) for one in await mq.dead(queue)] == [
            True
        ] * 2

    @pytest.mark.parametrize("batch", [None, 10])
    async def test_a_coroutine_that_returns_another(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], batch: int | None
    ) -> None:
        """Somebody has forgotten an await: the message fails, too."""
        ran: list[Any] = []

        async def work(body: Any) -> None:
            ran.append(body)

        @worker.on(queue, batch=batch)
        async def handle(body: Any) -> Any:
            return work(body)

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        (letter,) = await mq.dead(queue)
        assert "handle): the function has returned an object of the type coroutine" in str(
            letter.error
        )
        assert ran == []

    async def test_at_an_endpoint(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """The caller of a request hears it."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("e", timeout=PATIENCE)
        worker.on(endpoint)(lambda body: asyncio.sleep(0))

        async with serving(worker, mq, endpoint):
            with pytest.raises(ms.RemoteError, match="declare an async def"):
                await mq.request(endpoint, 1)

    async def test_of_a_topic_that_keeps_nothing(
        self, worker: ms.Worker, mq: ms.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log says it."""
        worker.on(TICKS)(lambda body: asyncio.sleep(0))

        async with running(worker, mq):

            async def told() -> bool:
                await mq.publish(TICKS, 1)
                return "declare an async def" in caplog.text

            await auntil(told, PATIENCE)

    async def test_of_a_schedule(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What makes bodies is a function like any other."""

        @worker.every(0.1, queue)
        def tick() -> Any:
            return asyncio.sleep(0)

        async with running(worker, mq):
            await auntil(lambda: "declare an async def" in caplog.text, PATIENCE)

    async def test_what_only_looks_like_it(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """An object that has every attribute is a value like any other."""

        class Agreeable:
            def __getattr__(self, name: str) -> Any:
                return name

        worker.on(queue)(lambda body: Agreeable())
        await mq.send(queue, 1)
        await run_burst(worker, mq)

        assert (await mq.stats(queue)).acked == 1


class TestDeclarations:
    def test_plain_decorators_around_coroutines(self, worker: ms.Worker) -> None:
        """A plain function around an async def or a generator is refused, for whatever it is declared."""

        async def work(body: Any) -> None: ...

        async def parts(body: Any) -> Any:
            yield body

        sources: list[Any] = [ms.Queue("q"), TICKS, ms.Endpoint("e")]
        for source in sources:
            for wrong in (traced(work), traced(traced(work)), traced(parts)):
                with pytest.raises(ms.UsageError, match=r"TestDeclarations.*decorator"):
                    worker.on(source)(wrong)

        async def body() -> int:
            return 1

        with pytest.raises(ms.UsageError, match=r"worker.every\(.*decorator"):
            worker.every(5, ms.Queue("q"))(traced(body))
        assert worker.handlers == ()

    async def test_decorators_that_are_async(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """An async def around any function is a handler, and so is a plain one that leaves no trace."""
        ran: list[Any] = []
        plain: ms.Queue[Any] = ms.Queue("plain")

        async def work(body: Any) -> None:
            ran.append(body)

        @functools.wraps(work)
        async def around(body: Any) -> None:
            await work(body)

        @functools.wraps(work)
        def to_its_end(body: Any) -> None:
            asyncio.run(work(body))

        del to_its_end.__wrapped__  # so says the error
        worker.on(queue)(around)
        worker.on(plain)(to_its_end)
        await mq.send(queue, 1)
        await mq.send(plain, 2)
        await run_burst(worker, mq)

        assert sorted(ran) == [1, 2]

    def test_what_is_no_function(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """Values, classes, and what does not tell its parameters are no handlers."""
        for wrong, said in (
            (5, "worker.on(5): it is no function"),
            (None, "worker.on(None): it is no function"),
            (int, "worker.on(int): it is a class"),
            (max, "max does not tell its parameters"),
        ):
            declare: Function = worker.on(queue)
            with pytest.raises(ms.UsageError, match=re.escape(said)):
                declare(wrong)
        assert worker.handlers == ()

    def test_without_parentheses(self, worker: ms.Worker) -> None:
        """A decorator without its queue is an error, and not a function that nobody calls."""
        on: Function = worker.on

        with pytest.raises(ms.UsageError, match=r"not .*handle: say @worker.on\(queue\)"):

            @on
            async def handle(body: Any) -> None: ...

        for wrong in ("orders", None, ms.Queue):
            with pytest.raises(ms.UsageError, match="expected a Queue"):
                on(wrong)

    def test_hooks(self, worker: ms.Worker) -> None:
        """Hooks and middleware that could not be awaited, or not be called, are refused at once."""

        def plain(*arguments: Any) -> None: ...

        async def three(one: Any, two: Any, three: Any) -> None: ...

        async def parts(*arguments: Any) -> Any:
            yield 1

        hooks: list[tuple[Function, str]] = [
            (worker.on_startup, "worker.on_startup"),
            (worker.on_shutdown, "worker.on_shutdown"),
            (worker.middleware, "worker.middleware"),
            (worker.on_missed(TICKS), "worker.on_missed"),
        ]
        for declare, where in hooks:
            for wrong in (plain, three, parts, int, 5):
                with pytest.raises(ms.UsageError, match=re.escape(f"{where}(")):
                    declare(wrong)

    async def test_hooks_in_other_forms(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Partials, methods, objects and decorated coroutine functions are hooks, too."""
        ran: list[str] = []

        class Life:
            async def begin(self) -> None:
                ran.append("method")

            async def __call__(self, delivery: Any, call_next: Any) -> None:
                ran.append("object")
                await call_next()

        async def end(what: str) -> None:
            ran.append(what)

        async def last() -> None:
            ran.append("decorated")

        worker.on_startup(Life().begin)
        worker.middleware(Life())
        worker.on_shutdown(traced(last))
        worker.on_shutdown(functools.partial(end, "partial"))
        worker.on(queue)(ran.append)
        await mq.send(queue, "body")
        await run_burst(worker, mq)

        assert ran == ["method", "object", "body", "partial", "decorated"]

    async def test_blocking_clients(
        self, worker: ms.Worker, queue: ms.Queue[Any], url: str, namespace: str
    ) -> None:
        """A worker runs with the asyncio client only, and says so."""
        worker.on(queue)(print)
        with ms.Client(url, namespace=namespace) as blocking:
            other: Any = blocking
            with pytest.raises(ms.UsageError, match="expected an AsyncClient, not Client"):
                await worker.run(other)
