"""Work beside the benchmark's own, in threads; what goes wrong there does not go unseen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

Work = Callable[[threading.Event], object]
"""Works until the event is set."""


class Background:
    """Does these things while it is entered."""

    def __init__(self, *works: Work) -> None:
        """Prepare a thread for each."""
        self._works = works
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(len(works))
        self._futures: list[Future[object]] = []

    def __enter__(self) -> Background:
        """Begin."""
        self._futures = [self._threads.submit(work, self._over) for work in self._works]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End, with the first failure of a thread where there is no other.

        Raises:
            Exception: what a thread has raised.
        """
        self._over.set()
        self._threads.shutdown()
        if error is None:
            for future in self._futures:
                future.result()
