"""What a webhook's owner dropped on its way, by switching the webhook off or deleting it: it may have come, or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from account import Key, Post, key_of
from receiver import Received

from webhooks import History
from windows import Rules

STILL_SENT_MS = 5_000
"""A request that began before a webhook was switched off may come to its end so long after that counts."""


class Dropping:
    """Knows when lives of webhooks ended; times in milliseconds."""

    def __init__(self, settings: list[dict[str, Any]], arrivals: dict[int, dict[int, int]], rules: Rules, on_its_way_ms: float) -> None:
        """A POST may still be on its way for some time after it was due: at least so long."""
        self._history, self._arrivals, self._rules = History(settings), arrivals, rules
        self._on_its_way_ms: dict[str, float] = defaultdict(lambda: on_its_way_ms)

    def observe(self, posts: list[Post], received: list[Received]) -> None:
        """Takes in how long POSTs of each webhook were on their way: what did not come may have been so as long."""
        first: dict[Key, Received] = {}
        for request in received:
            if request.status == 200:
                first.setdefault((request.path, request.body), request)
        for post in posts:
            if request := first.get(key_of(post)):
                longest = self._on_its_way_ms[post["webhook_id"]]
                self._on_its_way_ms[post["webhook_id"]] = max(longest, 1000 * request.received_at - self._due(post) + STILL_SENT_MS)

    def _end(self, post: Post) -> int | None:
        """From when on the owner dropped what was left of a POST; None if that never happened."""
        return self._history.end_of_life(post["webhook_id"], self._arrivals[post["partition"]][post["offset"]])

    def _due(self, post: Post) -> int:
        """When a POST may be sent: at the arrival of its message, or when its window closes."""
        if post["window_start"] is None:
            return self._arrivals[post["partition"]][post["offset"]]
        return int(post["identity"][4]) + self._rules.window_ms(post["granularity"]) + self._rules.grace_ms

    def may_drop(self, post: Post) -> bool:
        """Whether a POST may have been on its way when its webhook was switched off or deleted."""
        end = self._end(post)
        return end is not None and self._due(post) > end - self._on_its_way_ms[post["webhook_id"]]

    def dropped(self, posts: list[Post], received: list[Received]) -> set[int]:
        """What did not come since it was dropped on its way, by the ids of the objects."""
        came = Counter((request.path, request.body) for request in received if request.status == 200)
        alike: dict[Key, list[Post]] = defaultdict(list)
        for post in posts:
            alike[key_of(post)].append(post)
        found = set()
        for key, of_key in alike.items():
            if came[key] < len(of_key):
                # A message that was repeated makes equal POSTs: the later ones are those that were dropped.
                unsure = sorted((post for post in of_key if self.may_drop(post)), key=self._due, reverse=True)
                found |= {id(post) for post in unsure[: len(of_key) - came[key]]}
        return found

    def check_not_after(self, posts: list[Post], received: list[Received]) -> Iterator[str]:
        """Problems of what came long after its webhook was off."""
        first: dict[Key, Received] = {}
        for request in received:
            if request.status == 200:
                first.setdefault((request.path, request.body), request)
        times = Counter(map(key_of, posts))
        for post in posts:
            end, request = self._end(post), first.get(key_of(post))
            if end is None or request is None or times[key_of(post)] > 1:
                continue
            late = request.received_at * 1000 - end
            if late > STILL_SENT_MS:
                yield f"sent {late:.0f} ms after {post['webhook_id']} was off: {post['path']}, offset {post['offset']}"
