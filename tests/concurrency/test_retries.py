"""A call that meets a lost connection tries again by itself, and is quiet about it."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from lapse import ConversationService, DatabaseUnavailableError
from lapse.store.retries import RETRY_TIMEOUT_SECONDS
from tests.support.backlog import BUSINESS, customer
from tests.support.proxy import Proxy


def test_a_database_that_comes_back_is_waited_for_without_a_word(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = Proxy(postgres_url)
    with closing(ConversationService(proxy.url)) as service, closing(proxy):
        proxy.open()
        first = service.record_message(1, customer(1), BUSINESS)
        proxy.close()
        threading.Timer(0.3, proxy.open).start()
        assert service.record_message(1, customer(1), BUSINESS).conv_id == first.conv_id
    # What it prints is the application's to say.
    assert capsys.readouterr() == ("", "")


def test_a_database_that_stays_away_is_given_up(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    with closing(ConversationService(proxy.url)) as service, closing(proxy):
        begin = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            service.record_message(1, customer(1), BUSINESS)
        assert 3 < time.monotonic() - begin < RETRY_TIMEOUT_SECONDS + 1
