"""The end of the HTTP server while an answer is still being made."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import Any

from lapse.http import serving
from tests.support.http_client import request
from tests.support.waiting import until


def test_an_answer_that_comes_after_the_end_is_written_to_no_other_file() -> None:
    """Its thread wakes the server's by a bare file number, which may be another file's by then."""
    servers = []

    def app(environment: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
        servers.append(environment["waitress.client_disconnected"].__self__.server)
        start("200 OK", [])
        return [b"seen"]

    with serving(app, "127.0.0.1:0") as (_, port):
        assert request(port, "/").status == 200
    until(lambda: all(thread.name != "lapse-http" for thread in threading.enumerate()))
    pipes = [os.pipe() for _ in range(20)]  # with the numbers of what was closed
    try:
        servers[0].pull_trigger()  # what such a thread does, that looked whether all is open just before
        assert select.select([end for end, _ in pipes], [], [], 0)[0] == []
    finally:
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)
