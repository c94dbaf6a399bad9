"""A replay of a log by one version of lapse, whichever is imported here. Uses what every version has."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.helpers import answer, database_url
from lapse import ConversationService
from lapse.replay import VirtualClock, read_message_log, replay
from lapse.store import migrate


def main() -> None:
    """Read the log of the first argument, replay as many messages as the second says, and answer how long it took."""
    url = database_url()
    log: Any = read_message_log(Path(sys.argv[1]))
    wanted = int(sys.argv[2])
    clock = VirtualClock()
    with closing(ConversationService(url, clock=clock)) as service:
        migrate(service.database)
        answer({"ready": True})
        sys.stdin.readline()
        begin = time.perf_counter()
        # In the older version it is the messages that can be iterated over, in this one the log.
        messages = log.messages if isinstance(log.messages, list) else log
        replay(service, clock, itertools.islice(messages, wanted))
        answer({"seconds": time.perf_counter() - begin})
        sys.stdin.readline()  # until then somebody may look at this process


if __name__ == "__main__":
    main()
