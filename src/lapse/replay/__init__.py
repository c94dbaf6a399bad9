"""Replay of a message log in virtual time: by the real rules, into a real database, without a worker."""

from lapse.replay.chart import draw_open_conversations
from lapse.replay.message_log import LoggedMessage, MessageLog, read_message_log
from lapse.replay.report import ReplaySummary, summarise, write_events
from lapse.replay.simulation import VirtualClock, replay

__all__ = [
    "LoggedMessage",
    "MessageLog",
    "ReplaySummary",
    "VirtualClock",
    "draw_open_conversations",
    "read_message_log",
    "replay",
    "summarise",
    "write_events",
]
