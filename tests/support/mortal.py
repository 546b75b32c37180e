"""A process of a test does not outlive its block, and nobody waits for one that hangs."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import AnyStr


class Mortal(subprocess.Popen[AnyStr]):
    """Popen whose block ends the process: by itself it would wait for it, however long."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        super().__exit__(kind, error, trace)
