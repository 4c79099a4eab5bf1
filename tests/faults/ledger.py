"""Takes the records of a run from Kafka, lets the oracle say what had to come, waits for it, and settles the account."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import records
import totals
from account import Account, Post, key_of
from dropped import Dropping
from rig import Ends
from system import System

from windows import Rules

EARLY_MS = 5_000
"""A boundary that the clock closed may be ahead of a broker's timestamp by so much, if the broker was held up."""
Boundaries = dict[int, list[tuple[int, int]]]
"""Offset and boundary, by partition."""


class Ledger:
    """What is known of a run beside what its receiver got. Records stay in files of the run's folder."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.account = Account()
        self._arrivals: dict[int, dict[int, int]] = defaultdict(dict)
        """Timestamps of the messages by partition and offset."""
        self.settings: list[dict[str, Any]] = []
        """Records of `webhook-settings`."""
        self.posts: list[Post] = []
        """What had to come, once it is settled without what the owner dropped."""
        self.summary: dict[str, Any] = {}
        """What the oracle says became of the messages."""

    # -- what had to come --

    def read_topics(self) -> None:
        """Reads what the brokers hold of messages and settings."""
        system, prefix = self._system, self._system.prefix
        ends = system.rig.ends()
        self.settings = list(self._copied("settings-records", f"{prefix}webhook-settings", ends))
        unseen = Counter(hashlib.sha256(line).digest() for line in system.published())
        published = unseen.total()
        for record in self._copied("records", f"{prefix}message-events", ends):
            self._arrivals[record["partition"]][record["offset"]] = record["timestamp"]
            unseen[hashlib.sha256((record["value"] or "").encode("utf-8", "surrogateescape")).digest()] -= 1
        self.account.counts["messages"] = sum(map(len, self._arrivals.values()))
        if missing := (+unseen).total():
            self.account.problem(f"{missing} of {published} acknowledged messages are not in the topic")

    def _copied(self, name: str, topic: str, ends: Ends) -> Iterator[dict[str, Any]]:
        """A topic's records, each copied to a file in the form that the oracle reads."""
        with open(self._system.folder / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for record in self._system.rig.records(topic, ends):
                file.write(json.dumps(_stored(record), ensure_ascii=False) + "\n")
                yield record

    def _expect(self, boundaries: Boundaries) -> None:
        """Computes what the contract demands, given boundaries that were closed by the clock."""
        system = self._system
        with open(system.folder / "boundaries.jsonl", "w", encoding="utf-8") as file:
            for partition, entries in boundaries.items():
                file.writelines(json.dumps({"partition": partition, "boundary": at, "offset": offset}) + "\n" for offset, at in entries)
        system.oracle(
            "expected.py", "--records", "records.jsonl", "--settings", "settings-records.jsonl", "--boundaries", "boundaries.jsonl",
            "--hour", f"{system.plan.hour * 1000:.0f}ms", "--grace", f"{system.plan.grace * 1000:.0f}ms",
            "--out", "expected.jsonl", "--repeats", "repeats.jsonl", "--summary", "summary.json",
        )
        self.posts = list(self._read_posts("expected.jsonl"))
        self.summary = json.loads((system.folder / "summary.json").read_text())

    def _read_posts(self, name: str) -> Iterator[Post]:
        with open(self._system.folder / name, encoding="utf-8", newline="\n") as file:
            for line in file:
                post = json.loads(line)
                yield post | {"body": self._system.receiver.store.add(post["body"].encode())}

    def _boundaries(self) -> Boundaries:
        """All boundaries that were ever committed."""
        logged = defaultdict(set)
        rig = self._system.rig
        for partition, metadata in rig.commits(f"{self._system.prefix}bundlehook-aggregate", rig.ends()):
            # Before the first claim there is an offset without metadata.
            if metadata:
                logged[partition] |= {(offset, boundary) for boundary, offset in json.loads(metadata)["boundaries"]}
        return {partition: sorted(entries) for partition, entries in logged.items()}

    def _check_boundaries(self, logged: Boundaries) -> None:
        """No boundary was noted long before its time by the broker's clock.

        One may be noted after the record that closed it: who takes a partition over notes what its state says is closed.
        """
        for partition, entries in logged.items():
            arrivals = self._arrivals[partition]
            for offset, boundary in entries:
                after = arrivals.get(offset)
                closes = boundary + int(self._system.plan.grace * 1000)
                if after is not None and after < closes:
                    self.account.counts["boundaries closed early"] += 1
                    if after < closes - EARLY_MS:
                        self.account.problem(f"boundary {boundary} of partition {partition} was closed {closes - after} ms early, at {offset}")

    # -- waiting --

    def wait_until_all_came(self, patience: float) -> None:
        """Waits until everything has come, or nothing new has come for a while after the last window's end."""
        self._wait_applied(patience)
        boundaries = self._boundaries()
        self._expect(boundaries)
        while not self._wait_for_posts(patience):
            # What was decided since then places messages in other windows.
            former, boundaries = boundaries, self._boundaries()
            if boundaries == former:
                break
            self._expect(boundaries)
        self._check_boundaries(boundaries)
        self._wait_settled(patience)

    def _wait_applied(self, patience: float) -> None:
        """Waits until `aggregate` seems to have taken all messages: what it says of its lag stands still.

        It tells its lag every 5 s. A process goes on telling the last one of a partition that it gave up.
        """
        system = self._system
        deadline = time.monotonic() + patience
        since, lag = time.monotonic(), -1.0
        while time.monotonic() < min(since + 12, deadline):
            owned = system.sum("aggregate", 'bundlehook_partitions_owned{role="aggregate"')
            former, lag = lag, system.sum("aggregate", "bundlehook_lag_records")
            if owned != system.plan.partitions or lag != former:
                since = time.monotonic()
            system.pass_time(0.5)

    def _dropping(self) -> Dropping:
        plan = self._system.plan
        rules = Rules(hour_ms=int(plan.hour * 1000), grace_ms=int(plan.grace * 1000))
        return Dropping(self.settings, self._arrivals, rules, 1000 * plan.on_its_way)

    def _wait_for_posts(self, patience: float) -> bool:
        """Waits until all POSTs that are expected have come; False if nothing came for too long."""
        system = self._system
        dropping = self._dropping()
        remaining = Counter(key_of(post) for post in self.posts if not dropping.may_drop(post))
        missing = remaining.total()
        seen, last_news = 0, time.monotonic()
        longest = 24 * system.plan.hour + system.plan.grace + 10
        last_arrival = max((max(arrivals.values()) for arrivals in self._arrivals.values()), default=0) / 1000
        while True:
            fresh = system.receiver.received[seen:]
            seen += len(fresh)
            for request in fresh:
                key = (request.path, request.body)
                if 200 <= request.status < 300 and remaining[key] > 0:
                    remaining[key] -= 1
                    missing -= 1
                    last_news = time.monotonic()
            if not missing:
                return True
            if time.time() > last_arrival + longest and time.monotonic() > last_news + patience:
                return False
            system.pass_time(0.5)

    def _wait_settled(self, patience: float) -> None:
        """Waits until nothing waits or is parked, so that nothing more can come; notes what remains."""
        system = self._system
        deadline = time.monotonic() + patience
        quiet_since = time.monotonic()
        seen = len(system.receiver.received)
        while True:
            # A process sets its gauges to 0 before it has claimed anything, so this alone proves little.
            waiting = system.sum("deliver", "bundlehook_deliveries_parked") + system.sum("deliver", "bundlehook_deliveries_waiting ")
            if waiting or len(system.receiver.received) != seen:
                quiet_since, seen = time.monotonic(), len(system.receiver.received)
            if time.monotonic() - quiet_since > 4:
                return
            if time.monotonic() > deadline:
                self.account.problem(f"{waiting:.0f} deliveries still wait")
                return
            system.pass_time(0.5)

    # -- what came --

    def settle(self, counted: bool) -> Account:
        """Compares, and attributes each repeat; compares the counters of the processes, too, where none of them ended."""
        system, account = self._system, self.account
        received = system.receiver.received[:]
        dropping = self._dropping()
        account.problems += dropping.check_not_after(self.posts, received)
        dropping.observe(self.posts, received)
        dropped = dropping.dropped(self.posts, received)
        system.hit("dropped by their owner", len(dropped))
        gone = {key_of(post) for post in self.posts if id(post) in dropped}
        self.posts = [post for post in self.posts if id(post) not in dropped]
        # What failed before its owner dropped it is no attempt of anything that is expected.
        came = [request for request in received if request.status == 200 or (request.path, request.body) not in gone]
        ends = system.rig.ends()
        bundles, attempts = (system.rig.records(f"{system.prefix}{topic}", ends) for topic in ("bundles", "delivery-attempts"))
        outcomes, late = Counter[str](), Counter[str]()
        account.problems += records.check_attempts(attempts, received, outcomes, late)
        copies = Counter(map(key_of, self._read_posts("repeats.jsonl")))
        account.settle(self.posts, copies, came, system.faults, late, system.receiver.store)
        with open(system.folder / "bundles.jsonl", "w", encoding="utf-8", errors="surrogateescape") as file:
            account.problems += records.check_positions(_noted(bundles, file), account.counts)
        if counted:
            account.problems += totals.check(system, self.summary, self.posts, outcomes, account.counts)
        if account.problems:
            self._write_received()
        return account

    def _write_received(self) -> None:
        """Leaves what came in the run's folder, beside what the account rests on."""
        store = self._system.receiver.store
        with open(self._system.folder / "received.jsonl", "w", encoding="utf-8", newline="\n", errors="surrogateescape") as file:
            for request in self._system.receiver.received:
                times = {"received_at": request.received_at, "ended_at": request.ended_at}
                file.write(json.dumps(times | request.entry(store.text(request.body)), ensure_ascii=False) + "\n")
        with open(self._system.folder / "faults.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(fault.__dict__) + "\n" for fault in self._system.faults)


def _noted(bundles: Iterator[dict[str, Any]], file: Any) -> Iterator[dict[str, Any]]:
    """The bundles, each noted in a file without its body."""
    for record in bundles:
        file.write(json.dumps({name: record[name] for name in ("partition", "offset", "timestamp", "headers")}) + "\n")
        yield record


def _stored(record: dict[str, Any]) -> dict[str, Any]:
    """A record in the form that the oracle reads."""
    stored = {name: record[name] for name in ("partition", "offset", "timestamp", "key", "value")}
    value = record["value"]
    if value is not None:
        raw = value.encode("utf-8", "surrogateescape")
        try:
            raw.decode()
        except UnicodeDecodeError:
            del stored["value"]
            stored["value_base64"] = base64.b64encode(raw).decode()
    return stored
