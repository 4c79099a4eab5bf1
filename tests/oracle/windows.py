"""Effective time, windows, repeats and parts of one partition."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from events import Event
from instants import MS_PER_HOUR, NS_PER_MS
from webhooks import GRANULARITY_HOURS, Wanting

AHEAD_MS = 5 * 60_000
REPEAT_MS = 10 * 60_000


@dataclass(frozen=True)
class Rules:
    """How messages fall into windows; all times in milliseconds."""

    hour_ms: int = MS_PER_HOUR
    grace_ms: int = MS_PER_HOUR // 60
    max_age_ms: int = 7 * 24 * MS_PER_HOUR
    part_messages: int = 1_000
    part_bytes: int = 512 * 1_024

    def is_too_old(self, sent_at_ns: int, arrived_at: int) -> bool:
        """Whether a message was older than the limit when it arrived; a limit of 0 is none."""
        return self.max_age_ms > 0 and sent_at_ns < (arrived_at - self.max_age_ms) * NS_PER_MS

    def effective_time(self, sent_at_ns: int, arrived_at: int, last_closed: int) -> int:
        """The time that decides a message's windows, in nanoseconds."""
        ahead = sent_at_ns > (arrived_at + AHEAD_MS) * NS_PER_MS
        time = arrived_at * NS_PER_MS if ahead else sent_at_ns
        return max(time, max(arrived_at - self.grace_ms, last_closed) * NS_PER_MS)

    def window_ms(self, granularity: str) -> int:
        """Length of a window."""
        return GRANULARITY_HOURS[granularity] * self.hour_ms

    def window_start(self, time_ns: int, granularity: str) -> int:
        """Start of the window that contains a time, in milliseconds."""
        length = self.window_ms(granularity)
        return time_ns // NS_PER_MS // length * length

    def closed_by(self, arrived_at: int) -> int:
        """The last boundary that is closed by reading a record which arrived at that time."""
        return (arrived_at - self.grace_ms) // self.hour_ms * self.hour_ms


class Boundaries:
    """The last boundary closed in a partition: by a record that was read, or by the clock at a logged offset."""

    def __init__(self, rules: Rules, logged: Sequence[tuple[int, int]]) -> None:
        """`logged` holds (offset, boundary)."""
        self._rules = rules
        ordered = sorted(logged)
        self._offsets = [offset for offset, _ in ordered]
        self._highest = [0, *accumulate((boundary for _, boundary in ordered), max)]
        self._by_records = 0

    def read(self, offset: int, arrived_at: int) -> int:
        """The last boundary closed for the record at the offset, which is read next."""
        self._by_records = max(self._by_records, self._rules.closed_by(arrived_at))
        return max(self._by_records, self._highest[bisect_right(self._offsets, offset)])


@dataclass(frozen=True)
class Taken:
    """A message in a window, with the webhooks that wanted it there."""

    event: Event
    offset: int
    arrived_at: int
    wanted_by: tuple[Wanting, ...]
    bytes: int = 0
    """Size of its message object; only asked for in windows."""


@dataclass
class Part:
    """Messages of a window that are sent together, in the order of arrival."""

    messages: list[Taken] = field(default_factory=list)
    bytes: int = 0
    sealed_at: int | None = None
    """Arrival of the message that no longer fitted in; None for a window's last part."""


class Window:
    """The messages of one chat over one window; its cuts are the same for all webhooks."""

    def __init__(self) -> None:
        self.parts = [Part()]
        self._message_ids: set[str] = set()

    def add(self, taken: Taken, rules: Rules) -> bool:
        """Takes a message in; False if it is a repeat."""
        if taken.event.message_id in self._message_ids:
            return False
        self._message_ids.add(taken.event.message_id)
        part = self.parts[-1]
        if part.messages and (len(part.messages) >= rules.part_messages or part.bytes + taken.bytes > rules.part_bytes):
            part.sealed_at = taken.arrived_at
            part = Part()
            self.parts.append(part)
        part.messages.append(taken)
        part.bytes += taken.bytes
        return True


class RecentMessages:
    """Recognises repeats among the messages that are sent at once."""

    def __init__(self) -> None:
        self._arrivals: dict[tuple[str, str, str], int] = {}

    def is_repeat(self, event: Event, arrived_at: int) -> bool:
        """Whether the message was taken within the last 10 minutes; takes it otherwise."""
        key = (event.workspace_id, event.chat_id, event.message_id)
        former = self._arrivals.get(key)
        if former is not None and arrived_at - former <= REPEAT_MS:
            return True
        self._arrivals[key] = arrived_at
        return False
