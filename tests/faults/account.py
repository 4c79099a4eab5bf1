"""The account at the end of a run: what had to come, what came, and what explains each repeat."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import records
from receiver import Received
from system import ORACLE, Fault, System

sys.path.insert(0, str(ORACLE))
import compare  # noqa: E402
import expected as oracle  # noqa: E402
from webhooks import History  # noqa: E402
from windows import RecentMessages, Rules, Taken  # noqa: E402

UNRECORDED_S = 3.0
"""A request that was answered so long before a fault may not have been recorded yet."""
BEHIND_S = 30.0
"""So old may a message be when `aggregate` reads it: Redis may have forgotten its first copy after it arrived."""
STILL_SENT_MS = 5_000
"""A request that began before a webhook was switched off may come to its end so long after that counts."""
EARLY_MS = 5_000
"""A boundary that the clock closed may be ahead of a broker's timestamp by so much, if the broker was held up."""
Key = tuple[str, bytes]


class Forgetful(oracle.Oracle):
    """Recognises no repeat among the messages that are sent at once."""

    def _send_at_once(self, partition: int, taken: Taken, recent: RecentMessages) -> None:
        super()._send_at_once(partition, taken, RecentMessages())


@dataclass
class Account:
    """What became of a run's messages."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    details: str = ""

    def problem(self, text: str) -> None:
        self.problems.append(text)


class Ledger:
    """Takes the records of a run and holds what came against them."""

    def __init__(self, system: System) -> None:
        self._system = system
        plan = system.plan
        self._rules = Rules(hour_ms=int(plan.hour * 1000), grace_ms=int(plan.grace * 1000))
        self.account = Account()
        self._events: list[dict[str, Any]] = []
        self._arrivals: dict[tuple[int, int], int] = {}
        self.settings: list[dict[str, Any]] = []
        self._explained: Counter[int] = Counter()
        self._dropped: set[Key] = set()
        """What its owner dropped on its way."""
        self.posts: list[oracle.Post] = []
        """What had to come, once it is settled."""
        self.oracle: oracle.Oracle | None = None
        """Who said so."""

    # -- what had to come --

    def read_topics(self) -> None:
        """Reads what the brokers hold of messages and settings."""
        rig, prefix = self._system.rig, self._system.prefix
        self._events = [_stored(record) for record in rig.records(f"{prefix}message-events")]
        self.settings = [_stored(record) for record in rig.records(f"{prefix}webhook-settings")]
        self._arrivals = {(record["partition"], record["offset"]): record["timestamp"] for record in self._events}
        self.account.counts["messages"] = len(self._events)
        published = Counter((self._system.folder / "events.jsonl").read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"))
        missing = published - Counter(map(_text, self._events))
        if missing:
            self.account.problem(f"{missing.total()} acknowledged messages are not in the topic, such as {next(iter(missing))[:300]}")

    def expect(self, logged: dict[int, list[tuple[int, int]]]) -> list[oracle.Post]:
        """What the contract demands, given boundaries that were closed by the clock."""
        run = oracle.Oracle(History(self.settings), self._rules, "TimelinesAI")
        run.run(self._events, logged)
        self.oracle = run
        return run.posts

    def _copies(self, posts: list[oracle.Post]) -> Counter[Key]:
        """POSTs of copies of messages, sent at once, that may come since Redis forgot the first ones: dropping them is best effort."""
        losses = [fault.since for fault in self._system.faults if fault.forgets]
        if not losses:
            return Counter()
        run = Forgetful(History(self.settings), self._rules, "TimelinesAI")
        run.run(self._events, {})
        wanted = {(post.webhook_id, post.partition, post.offset) for post in posts}
        return Counter(
            (post.path, post.body.encode()) for post in run.posts
            if post.granularity == "none" and (post.webhook_id, post.partition, post.offset) not in wanted
            and self._arrivals[post.partition, post.offset] >= (min(losses) - BEHIND_S) * 1000
        )

    def boundaries(self) -> dict[int, list[tuple[int, int]]]:
        """All boundaries that were ever committed, each checked for plausibility."""
        logged = defaultdict(set)
        group = f"{self._system.prefix}bundlehook-aggregate"
        for record in self._system.rig.commits():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                key, value = record["key"]["data"], record["value"]["data"]
                if key["group"] == group:
                    for boundary, offset in json.loads(value["metadata"])["boundaries"]:
                        logged[key["partition"]].add((offset, boundary))
        self._check_boundaries(logged)
        return {partition: sorted(entries) for partition, entries in logged.items()}

    def _check_boundaries(self, logged: dict[int, set[tuple[int, int]]]) -> None:
        """A boundary hardly ever closes before a record that arrived earlier than it plus the grace. That it stands at a later
        record than the first which closes it means nothing: whoever goes on after a crash knows that it closed, not where."""
        arrivals: dict[int, dict[int, int]] = defaultdict(dict)
        for record in self._events:
            arrivals[record["partition"]][record["offset"]] = record["timestamp"]
        for partition, entries in logged.items():
            of_partition = arrivals[partition]
            for offset, boundary in entries:
                after = of_partition.get(offset)
                closes = boundary + self._rules.grace_ms
                if after is not None and after < closes:
                    self.account.counts["boundaries closed early"] += 1
                    if after < closes - EARLY_MS:
                        self.account.problem(f"boundary {boundary} of partition {partition} was closed {closes - after} ms early, at {offset}")

    # -- waiting --

    def wait_until_all_came(self, patience: float) -> None:
        """Waits until everything has come, or nothing new has come for a while after the last window's end."""
        system = self._system
        posts = self.expect({})
        ends = self._ends(posts)
        wanted = Counter((post.path, post.body.encode()) for post in posts if not self._may_be_dropped(post, ends))
        got: Counter[Key] = Counter()
        seen, last_news = 0, time.monotonic()
        longest = 24 * system.plan.hour + system.plan.grace + 10
        last_arrival = max((record["timestamp"] for record in self._events), default=0) / 1000
        while True:
            fresh = system.receiver.received[seen:]
            seen += len(fresh)
            for request in fresh:
                key = (request.path, request.body)
                if 200 <= request.status < 300:
                    if got[key] < wanted[key]:
                        last_news = time.monotonic()
                    got[key] += 1
            missing = (wanted - got).total()
            if not missing:
                break
            if time.time() > last_arrival + longest and time.monotonic() > last_news + patience:
                break
            system.pass_time(0.5)
        self._wait_settled(patience)

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

    def settle(self) -> Account:
        """Compares, and attributes each repeat."""
        system, account = self._system, self.account
        posts = self.posts = self._without_dropped(self.expect(self.boundaries()), system.receiver.received)
        # What failed before its owner dropped it is no attempt of anything that is expected.
        came = [request for request in system.receiver.received if request.status == 200 or (request.path, request.body) not in self._dropped]
        received = self._without_copies(posts, came)
        self._write(posts, system.receiver.received)
        requests = [compare._request(number, entry.entry()) for number, entry in enumerate(received, 1)]
        report = compare.Comparison([post.__dict__ for post in posts], requests, allow_repeats=True).run()
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            report.print(10)
        account.counts.update({"POSTs expected": len(posts), "requests": len(received)})
        account.counts["lost"] = len(report.differences.get("missing", ()))
        account.counts["spurious"] = sum(len(report.differences.get(kind, ())) for kind in ("unexpected", "received too often"))
        for kind, texts in report.differences.items():
            account.problem(f"{kind}: {len(texts)}")
        account.details = out.getvalue() if report.differences else ""
        self._attribute_repeats(received, Counter((post.path, post.body.encode()) for post in posts))
        self._check_one_at_a_time(received)
        self._check_own_records()
        return account

    # -- what the owner dropped --

    def _ends(self, posts: list[oracle.Post]) -> dict[int, int]:
        """From when on the owner dropped what was left of a POST, by the id of its object; none if it never did."""
        history = History(self.settings)
        ends = ((id(post), history.end_of_life(post.webhook_id, self._arrivals[post.partition, post.offset])) for post in posts)
        return {post: at for post, at in ends if at is not None}

    def _due(self, post: oracle.Post) -> int:
        """When a POST may be sent: at the arrival of its message, or when its window closes."""
        if post.window_start is None:
            return self._arrivals[post.partition, post.offset]
        return int(post.identity[4]) + self._rules.window_ms(post.granularity) + self._rules.grace_ms

    def _may_be_dropped(self, post: oracle.Post, ends: dict[int, int]) -> bool:
        """Whether a POST may have been on its way when its webhook was switched off or deleted."""
        return id(post) in ends and self._due(post) > ends[id(post)] - 1000 * self._system.plan.on_its_way

    def _without_dropped(self, posts: list[oracle.Post], received: list[Received]) -> list[oracle.Post]:
        """Leaves out what did not come since its owner dropped it on its way. Nothing may come long after that."""
        ends = self._ends(posts)
        if not ends:
            return posts
        came: dict[Key, list[Received]] = defaultdict(list)
        for request in received:
            if request.status == 200:
                came[request.path, request.body].append(request)
        alike: dict[Key, list[oracle.Post]] = defaultdict(list)
        for post in posts:
            alike[post.path, post.body.encode()].append(post)
        dropped = set()
        for key, of_key in alike.items():
            # A message that was repeated makes equal POSTs: those that can't have been dropped came first.
            unsure = [post for post in of_key if self._may_be_dropped(post, ends)]
            lacking = max(0, len(of_key) - len(came[key]))
            dropped |= {id(post) for post in unsure[:lacking]}
            if len(of_key) == 1 and id(of_key[0]) in ends:
                self._check_not_after(of_key[0], ends[id(of_key[0])], came[key])
        self._system.hit("dropped by their owner", len(dropped))
        self._dropped = {(post.path, post.body.encode()) for post in posts if id(post) in dropped}
        return [post for post in posts if id(post) not in dropped]

    def _check_not_after(self, post: oracle.Post, end: int, requests: list[Received]) -> None:
        for request in requests[:1]:
            late = request.received_at * 1000 - end
            if late > STILL_SENT_MS:
                self.account.problem(f"sent {late:.0f} ms after {post.webhook_id} was off: {post.path}, offset {post.offset}")

    def _check_own_records(self) -> None:
        rig, prefix = self._system.rig, self._system.prefix
        bundles = list(rig.records(f"{prefix}bundles"))
        with open(self._system.folder / "bundles.jsonl", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(json.dumps({name: record[name] for name in ("partition", "offset", "timestamp", "headers")}) + "\n" for record in bundles)
        for problem in records.check_positions(bundles, self.account.counts):
            self.account.problem(problem)
        for problem in records.check_attempts(rig.records(f"{prefix}delivery-attempts"), self._system.receiver.received):
            self.account.problem(problem)

    def _without_copies(self, posts: list[oracle.Post], received: list[Received]) -> list[Received]:
        """Leaves out as many requests as may be copies that Redis forgot."""
        wanted = Counter((post.path, post.body.encode()) for post in posts)
        copies = self._copies(posts)
        kept = []
        for request in received:
            key = (request.path, request.body)
            if request.status == 200 and wanted[key] > 0:
                wanted[key] -= 1
                kept.append(request)
            elif request.status == 200 and copies[key] > 0:
                copies[key] -= 1
                self.account.counts["copies that Redis forgot"] += 1
            else:
                kept.append(request)
        return kept

    def _write(self, posts: list[oracle.Post], received: list[Received]) -> None:
        """Leaves everything that the account rests on in the run's folder."""
        folder = self._system.folder
        with open(folder / "expected.jsonl", "w", encoding="utf-8", newline="\n") as file:
            oracle.write_posts(posts, file)
        with open(folder / "received.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for request in received:
                times = {"received_at": request.received_at, "ended_at": request.ended_at}
                file.write(json.dumps(times | request.entry(), ensure_ascii=False) + "\n")
        with open(folder / "faults.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(fault.__dict__) + "\n" for fault in self._system.faults)
        for name, stored in (("records", self._events), ("settings-records", self.settings)):
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in stored)

    def _attribute_repeats(self, received: list[Received], wanted: Counter[Key]) -> None:
        """Each request beyond the success of its POST must go back to a fault that may have kept it unrecorded."""
        succeeded: dict[tuple[str, str, bytes], list[Received]] = defaultdict(list)
        for request in received:
            former = succeeded[request.path, request.headers.get("webhook-id", ""), request.body]
            # Two messages may make equal POSTs under one id, ten minutes apart.
            if former and len(former) >= wanted[request.path, request.body]:
                self._attribute(former[-1], request)
            if 200 <= request.status < 300:
                former.append(request)
        for fault in self._system.faults:
            repeats = self._explained[id(fault)]
            if repeats > fault.repeats:
                self.account.problem(f"{fault.name} explains at most {fault.repeats} repeats, but {repeats} belong to it")

    def _attribute(self, former: Received, again: Received) -> None:
        self.account.counts["repeats"] += 1
        ended = former.ended_at or again.received_at
        candidates = [
            fault for fault in self._system.faults if former.received_at <= fault.until and ended + UNRECORDED_S >= fault.since
        ]
        if not candidates:
            self.account.counts["repeats without a cause"] += 1
            if self.account.counts["repeats without a cause"] <= 10:
                self.account.problem(
                    f"a repeat without a cause: {again.path} id {again.headers.get('webhook-id')}, answered at {former.ended_at}, "
                    f"again at {again.received_at}"
                )
            return
        # The one with the most room left: of overlapping faults any may be it.
        best = max(candidates, key=lambda fault: fault.repeats - self._explained[id(fault)])
        self._explained[id(best)] += 1

    def _check_one_at_a_time(self, received: list[Received]) -> None:
        """POSTs of one chat to one webhook do not overlap, but where a fault left one behind."""
        last: dict[tuple[str, str], Received] = {}
        for request in received:
            chat = (request.path, json.loads(request.body)["chat"]["chat_id"])
            former = last.get(chat)
            last[chat] = request
            if former is None or (former.ended_at is not None and former.ended_at <= request.received_at):
                continue
            if not _explained_by(self._system.faults, former, request):
                self.account.counts["overlaps"] += 1
                if self.account.counts["overlaps"] <= 5:
                    self.account.problem(
                        f"two POSTs of chat {chat} at once: {former.headers.get('webhook-id')} from {former.received_at} to "
                        f"{former.ended_at}, {request.headers.get('webhook-id')} from {request.received_at}"
                    )


def _explained_by(faults: list[Fault], former: Received, request: Received) -> bool:
    """Whether the former request was under way at a fault that cut it off from its process."""
    ended = former.ended_at or request.received_at
    return any(former.received_at <= fault.until and ended >= fault.since for fault in faults)


def _text(record: dict[str, Any]) -> str:
    """The value of a stored record, be it UTF-8 or not."""
    value = oracle.stored_value(record)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value or ""


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
