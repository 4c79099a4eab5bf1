#!/usr/bin/env python3
"""Computes every POST that the contract demands, from the records of Kafka alone.

Input are JSON lines, one a record as stored:

    {"partition": 0, "offset": 12, "timestamp": 1614183929000, "key": "10010001", "value": "{...}"}

`timestamp` is the broker's, in milliseconds; `value` is null for a record without one; bytes that are no UTF-8 come as
`value_base64` instead. Output are JSON lines, one a POST, and a summary of what became of the records. The rules are
implemented from the contract and share no code with the product.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from bodies import aggregated_body, compact, object_bytes, single_body
from events import DeadLetter, Event, Skip, read_event
from instants import parse_duration, window_text
from webhooks import History, Wanting
from windows import Boundaries, Part, RecentMessages, Rules, Taken, Window

WindowKey = tuple[str, str, str, int]


@dataclass(frozen=True)
class Post:
    """An expected POST."""

    webhook_id: str
    workspace_id: str
    url: str
    path: str
    chat_id: str
    granularity: str
    window_start: str | None
    part: int
    partition: int
    offset: int
    messages: int
    identity: list[Any]
    body: str

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Per webhook, chat and granularity the order in which they must arrive."""
        stream = (self.webhook_id, self.workspace_id, self.chat_id, self.partition, self.granularity)
        # Of texts, `…00.500Z` would stand before `…00Z`.
        start = 0 if self.window_start is None else self.identity[4]
        return (*stream, start, self.part, self.offset)


class Oracle:
    """What the contract makes of the records of `message-events`."""

    def __init__(self, history: History, rules: Rules, product: str, closed_until: int | None = None) -> None:
        self._history = history
        self._rules = rules
        self._product = product
        self._closed_until = closed_until
        self.posts: list[Post] = []
        self.repeats: list[Post] = []
        """POSTs of repeats among the messages that are sent at once: they may come where the first one was forgotten."""
        self.totals: Counter[str] = Counter()
        """What happens once a chat, however many webhooks want it."""
        self.records: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.webhooks: dict[str, Counter[str]] = defaultdict(Counter)

    def run(self, records: Iterable[dict[str, Any]], logged: dict[int, list[tuple[int, int]]]) -> None:
        """Takes all records, then closes all windows. `logged` holds (offset, boundary) by partition."""
        by_partition: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for record in records:
            by_partition[record["partition"]].append(record)
        for partition, of_partition in sorted(by_partition.items()):
            self._run_partition(partition, of_partition, logged.get(partition, []))
        self.posts.sort(key=lambda post: post.sort_key)

    def _run_partition(self, partition: int, records: list[dict[str, Any]], logged: list[tuple[int, int]]) -> None:
        boundaries = Boundaries(self._rules, logged)
        recent = RecentMessages()
        windows: dict[WindowKey, Window] = {}
        last_closed = 0
        for record in sorted(records, key=lambda record: record["offset"]):
            # Every record closes boundaries, whatever it holds.
            closed = boundaries.read(record["offset"], record["timestamp"])
            if closed > last_closed:
                last_closed = closed
                self._close_until(closed, partition, windows)
            taken = self._examine(record)
            if taken is not None:
                self._send_at_once(partition, taken, recent)
                self._collect(taken, closed, windows)
        for key, window in windows.items():
            self._close(partition, key, window)

    def _close_until(self, boundary: int, partition: int, windows: dict[WindowKey, Window]) -> None:
        """Closes the windows that end at the boundary or before, to which nothing can come any more."""
        for key in [key for key in windows if key[3] + self._rules.window_ms(key[2]) <= boundary]:
            self._close(partition, key, windows.pop(key))

    def _examine(self, record: dict[str, Any]) -> Taken | None:
        """The record's message and who wants it; None if nobody does. Counts what became of the record."""
        try:
            found = read_event(stored_value(record))
        except DeadLetter as error:
            self.dead_letters[error.reason] += 1
            self.records["dead_letter"] += 1
            return None
        arrived_at = record["timestamp"]
        wanting = () if isinstance(found, Skip) else self._history.wanting(found.workspace_id, arrived_at)
        fate = self._fate(found, arrived_at, bool(wanting))
        self.records[fate] += 1
        if isinstance(found, Skip) or fate != "wanted":
            return None
        return Taken(found, record["offset"], arrived_at, tuple(wanting))

    def _fate(self, found: Event | Skip, arrived_at: int, is_wanted: bool) -> str:
        """Why a message does not count, or `wanted`; the first reason holds."""
        if isinstance(found, Skip):
            return found.reason
        if self._rules.is_too_old(found.sent_at_ns, arrived_at):
            return "too_old"
        if is_wanted:
            return "wanted"
        return "no_enabled_webhook" if self._history.knows(found.workspace_id, arrived_at) else "unknown_workspace"

    def _send_at_once(self, partition: int, taken: Taken, recent: RecentMessages) -> None:
        wanting = [webhook for webhook in taken.wanted_by if webhook.granularity == "none"]
        if not wanting:
            return
        event = taken.event
        repeat = recent.is_repeat(event, taken.arrived_at)
        self.totals["duplicates"] += repeat
        body = single_body(event)
        for webhook in wanting:
            identity = [webhook.webhook_id, event.workspace_id, event.chat_id, event.message_id]
            post = _post(webhook, event, partition, taken.offset, None, 0, 1, identity, body)
            if repeat:
                self.webhooks[webhook.webhook_id]["duplicate"] += 1
                self.repeats.append(post)
            else:
                self.webhooks[webhook.webhook_id]["sent"] += 1
                self._send(post)

    def _collect(self, taken: Taken, closed: int, windows: dict[WindowKey, Window]) -> None:
        event = taken.event
        time_ns = self._rules.effective_time(event.sent_at_ns, taken.arrived_at, closed)
        size = object_bytes(event)
        for granularity in sorted({webhook.granularity for webhook in taken.wanted_by} - {"none"}):
            wanting = tuple(webhook for webhook in taken.wanted_by if webhook.granularity == granularity)
            start = self._rules.window_start(time_ns, granularity)
            window = windows.setdefault((event.workspace_id, event.chat_id, granularity, start), Window())
            if not window.add(Taken(event, taken.offset, taken.arrived_at, wanting, size), self._rules):
                self.totals["duplicates"] += 1
                for webhook in wanting:
                    self.webhooks[webhook.webhook_id]["duplicate"] += 1

    def _close(self, partition: int, key: WindowKey, window: Window) -> None:
        _, _, granularity, start = key
        self.totals[f"windows {granularity}"] += 1
        self.totals["sealed parts"] += len(window.parts) - 1
        closes_at = start + self._rules.window_ms(granularity) + self._rules.grace_ms
        for number, part in enumerate(window.parts, 1):
            sent_at = closes_at if part.sealed_at is None else part.sealed_at
            is_open = part.sealed_at is None and self._closed_until is not None and closes_at > self._closed_until
            self._send_part(partition, key, part, number if len(window.parts) > 1 else 0, None if is_open else sent_at)

    def _send_part(self, partition: int, key: WindowKey, part: Part, number: int, sent_at: int | None) -> None:
        """Sends a part to each webhook that wanted some of it; `sent_at` is None while its window is open."""
        of_webhook: dict[str, list[tuple[Taken, Wanting]]] = defaultdict(list)
        for taken in part.messages:
            for webhook in taken.wanted_by:
                if sent_at is None:
                    self.webhooks[webhook.webhook_id]["open"] += 1
                elif self._history.at(webhook.webhook_id, sent_at).life != webhook.life:
                    self.webhooks[webhook.webhook_id]["dropped_by_owner"] += 1
                else:
                    self.webhooks[webhook.webhook_id]["sent"] += 1
                    of_webhook[webhook.webhook_id].append((taken, webhook))
        for wanted in of_webhook.values():
            self._send_bundle(partition, key, number, wanted)

    def _send_bundle(self, partition: int, key: WindowKey, number: int, wanted: list[tuple[Taken, Wanting]]) -> None:
        taken, webhook = wanted[-1]
        workspace_id, chat_id, granularity, start = key
        first_offset = wanted[0][0].offset
        body = aggregated_body([taken.event for taken, _ in wanted], self._product)
        identity = [webhook.webhook_id, workspace_id, chat_id, granularity, start, partition, first_offset]
        self._send(_post(webhook, taken.event, partition, first_offset, start, number, len(wanted), identity, body))

    def _send(self, post: Post) -> None:
        self.webhooks[post.webhook_id]["posts"] += 1
        self.posts.append(post)

    def summary(self) -> dict[str, Any]:
        """What became of the records, and of the messages that each webhook wanted."""
        return {
            "records": dict(sorted(self.records.items())),
            "dead_letters": dict(sorted(self.dead_letters.items())),
            "unusable_settings": self._history.dead_letters["invalid_settings"],
            "webhooks": {name: dict(sorted(counts.items())) for name, counts in sorted(self.webhooks.items())},
            "posts": len(self.posts),
            "totals": dict(sorted(self.totals.items())),
        }


def _post(
    webhook: Wanting, event: Event, partition: int, offset: int,
    start: int | None, part: int, messages: int, identity: list[Any], body: str,
) -> Post:
    return Post(
        webhook_id=webhook.webhook_id, workspace_id=event.workspace_id, url=webhook.url, path=webhook.path,
        chat_id=event.chat_id, granularity=webhook.granularity,
        window_start=None if start is None else window_text(start),
        part=part, partition=partition, offset=offset, messages=messages, identity=identity, body=body,
    )


def stored_value(record: dict[str, Any]) -> bytes | str | None:
    """The value of a stored record."""
    if "value_base64" in record:
        return base64.b64decode(record["value_base64"])
    value: str | None = record["value"]
    return value


def read_lines(path: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; lines end with LF alone."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def read_boundaries(path: str | None) -> dict[int, list[tuple[int, int]]]:
    """Boundaries closed by the clock: (offset, boundary) by partition."""
    logged: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for entry in read_lines(path) if path else ():
        logged[entry["partition"]].append((entry["offset"], entry["boundary"]))
    return logged


def write_posts(posts: Iterable[Post], file: TextIO) -> None:
    """Writes POSTs as JSON lines."""
    for post in posts:
        file.write(compact(vars(post)) + "\n")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", required=True, metavar="FILE", help="records of message-events")
    parser.add_argument("--settings", required=True, metavar="FILE", help="records of webhook-settings")
    parser.add_argument("--boundaries", metavar="FILE", help='boundaries closed by the clock: {"partition","boundary","offset"}')
    parser.add_argument("--partitions", metavar="N,N", help="only these partitions (default: all)")
    parser.add_argument("--hour", type=parse_duration, default="1h", help="length of an hour (default: 1h)")
    parser.add_argument("--grace", type=parse_duration, help="the grace (default: a sixtieth of the hour)")
    parser.add_argument("--max-age", type=parse_duration, default="7d", help="greatest age at arrival, 0 for none (default: 7d)")
    parser.add_argument("--part-messages", type=int, default=1_000, help="most messages in a part (default: 1000)")
    parser.add_argument("--part-bytes", type=int, default=512 * 1_024, help="most bytes in a part (default: 524288)")
    parser.add_argument("--product", default="TimelinesAI", help="product name in the aggregation (default: TimelinesAI)")
    parser.add_argument("--closed-until", type=int, metavar="MS", help="windows that close later are still open (default: all close)")
    parser.add_argument("--out", metavar="FILE", help="where the POSTs go (default: standard output)")
    parser.add_argument("--repeats", metavar="FILE", help="where the POSTs of repeats with `none` go, which are to be dropped")
    parser.add_argument("--summary", metavar="FILE", help="where the summary goes as JSON (default: standard error)")
    return parser.parse_args(arguments)


def _rules(options: argparse.Namespace) -> Rules:
    grace = options.hour // 60 if options.grace is None else options.grace
    return Rules(options.hour, grace, options.max_age, options.part_messages, options.part_bytes)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line."""
    options = _arguments(arguments)
    # Nothing here refers to itself, and all of it is needed to the end: looking for what could go would only take time.
    gc.disable()
    oracle = Oracle(History(read_lines(options.settings)), _rules(options), options.product, options.closed_until)
    records: Iterable[dict[str, Any]] = read_lines(options.records)
    if options.partitions:
        partitions = {int(number) for number in options.partitions.split(",")}
        records = (record for record in records if record["partition"] in partitions)
    oracle.run(records, read_boundaries(options.boundaries))
    if options.out:
        with open(options.out, "w", encoding="utf-8", newline="\n") as file:
            write_posts(oracle.posts, file)
    else:
        write_posts(oracle.posts, sys.stdout)
    if options.repeats:
        with open(options.repeats, "w", encoding="utf-8", newline="\n") as file:
            write_posts(oracle.repeats, file)
    summary = json.dumps(oracle.summary(), indent=2)
    if options.summary:
        with open(options.summary, "w", encoding="utf-8") as file:
            file.write(summary + "\n")
    else:
        print(summary, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
