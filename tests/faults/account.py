"""The account at the end of a run: what had to come, what came, and what explains each repeat."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from receiver import Received
from store import Store

ORACLE = Path(__file__).resolve().parents[1] / "oracle"
sys.path.insert(0, str(ORACLE))
import compare  # noqa: E402

UNRECORDED_S = 3.0
"""A request that was answered so long before a fault may not have been recorded yet."""
Key = tuple[str, str]
"""Path, and the name of a body in the store."""
Post = dict[str, Any]
"""A POST as the oracle writes it, but with its body's name."""


@dataclass
class Fault:
    """A disturbance, by the clock of the host: what may be repeated was under way in between."""

    name: str
    since: float
    until: float
    repeats: int
    """How many repeats it explains at most."""
    forgets: bool = False
    """Redis lost which messages were sent at once within the last ten minutes."""


@dataclass
class Account:
    """What became of a run's messages."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    details: str = ""

    def problem(self, text: str) -> None:
        """Notes what must not be."""
        self.problems.append(text)

    def settle(self, posts: list[Post], copies: Counter[Key], received: list[Received], faults: list[Fault], late: Counter[str], store: Store) -> None:
        """Compares what came with the POSTs that had to come, and attributes each repeat.

        Copies are POSTs of repeated messages, sent at once: once Redis forgot the first ones they may come, too. What timed
        out, by id, may have been answered too late, and is sent again.
        """
        forgot_at = min((fault.since for fault in faults if fault.forgets), default=math.inf)
        forgotten, again = self._copies(posts, copies, received, forgot_at)
        kept = [request for request in received if id(request) not in forgotten | again]
        self._compare(posts, kept, store)
        self._attribute_repeats(received, forgotten, Counter(map(key_of, posts)), faults, late.copy())
        self._check_one_at_a_time(posts, kept, faults, late, store)

    def _copies(self, posts: list[Post], copies: Counter[Key], received: list[Received], forgot_at: float) -> tuple[set[int], set[int]]:
        """As many requests as may be copies of what Redis forgot; and those that repeat one which is like no POST."""
        demanded = Counter(map(key_of, posts))
        wanted, copies = demanded.copy(), copies.copy()
        forgotten, again = set(), set()
        came: set[tuple[Key, str]] = set()
        for request in received:
            key = (request.path, request.body)
            if request.status != 200:
                continue
            if wanted[key] > 0:
                wanted[key] -= 1
            elif copies[key] > 0 and request.received_at >= forgot_at:
                copies[key] -= 1
                forgotten.add(id(request))
                came.add((key, request.bundle_id))
            elif not demanded[key] and (key, request.bundle_id) in came:
                again.add(id(request))
        self.counts["copies that Redis forgot"] += len(forgotten)
        return forgotten, again

    def _compare(self, posts: list[Post], received: list[Received], store: Store) -> None:
        requests = [compare._request(number, entry.entry(entry.body)) for number, entry in enumerate(received, 1)]
        report = compare.Comparison(posts, requests, allow_repeats=True, text=store.text).run()
        self.counts.update({"POSTs expected": len(posts), "requests": len(received)})
        self.counts["lost"] = len(report.differences.get("missing", ()))
        self.counts["spurious"] = sum(
            len(report.differences.get(kind, ())) for kind in ("unexpected", "received too often", "unexpected attempts")
        )
        for kind, texts in report.differences.items():
            self.problem(f"{kind}: {len(texts)}")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            report.print(10)
        self.details = out.getvalue() if report.differences else ""

    def _attribute_repeats(
        self, received: list[Received], copies: set[int], wanted: Counter[Key], faults: list[Fault], late: Counter[str],
    ) -> None:
        """Each request beyond the success of its POST, or of a copy of it, must go back to a fault that may have kept it
        unrecorded."""
        succeeded: dict[tuple[str, str, str], list[Received]] = defaultdict(list)
        explained: Counter[int] = Counter()
        repeated: set[int] = set()
        failed: set[tuple[str, str, str]] = set()
        for request in received:
            key = (request.path, request.bundle_id, request.body)
            former = succeeded[key]
            is_retry = key in failed
            failed.discard(key)
            if not 200 <= request.status < 300:
                failed.add(key)
            if id(request) in copies:
                wanted[request.path, request.body] += 1
                former.append(request)
                continue
            # Two messages may make equal POSTs under one id, ten minutes apart.
            if former and len(former) >= wanted[request.path, request.body]:
                if is_retry:
                    self.counts["retries of a repeat that failed"] += 1
                elif late[request.bundle_id] > 0:
                    late[request.bundle_id] -= 1
                    self.counts["retries after an answer that came too late"] += 1
                    continue
                else:
                    self._attribute([one for one in former if id(one) not in repeated], request, faults, explained, repeated)
            if 200 <= request.status < 300:
                former.append(request)
        for fault in faults:
            repeats = explained[id(fault)]
            if repeats > fault.repeats:
                self.problem(f"{fault.name} explains at most {fault.repeats} repeats, but {repeats} belong to it")
        self.counts["most repeats of one fault"] = max(explained.values(), default=0)

    def _attribute(
        self, former: list[Received], again: Received, faults: list[Fault], explained: Counter[int], repeated: set[int],
    ) -> None:
        """Goes back to one of those before it that a fault may have kept unrecorded; each is repeated once for that."""
        self.counts["repeats"] += 1
        causes = [
            (one, fault) for one in reversed(former) for fault in faults
            if one.received_at <= fault.until and (one.ended_at or again.received_at) + UNRECORDED_S >= fault.since
        ]
        if causes:
            # The fault with the most room left: of overlapping ones any may be it.
            one, fault = max(causes, key=lambda cause: cause[1].repeats - explained[id(cause[1])])
            repeated.add(id(one))
            explained[id(fault)] += 1
            return
        self.counts["repeats without a cause"] += 1
        if self.counts["repeats without a cause"] <= 10:
            answered = ", ".join(str(one.ended_at) for one in former)
            self.problem(f"a repeat without a cause: {again.path} id {again.bundle_id}, answered at {answered}, again at {again.received_at}")

    def _check_one_at_a_time(
        self, posts: list[Post], received: list[Received], faults: list[Fault], late: Counter[str], store: Store,
    ) -> None:
        """POSTs of one chat to one webhook do not overlap, but where a fault left one behind, or one timed out."""
        chats = {key_of(post): post["chat_id"] for post in posts}
        last: dict[tuple[str, str], Received] = {}
        for request in received:
            key = (request.path, request.body)
            chat = (request.path, chats[key] if key in chats else json.loads(store.text(request.body))["chat"]["chat_id"])
            former = last.get(chat)
            last[chat] = request
            if former is None or (former.ended_at is not None and former.ended_at <= request.received_at):
                continue
            if late[request.bundle_id] > 0 and former.bundle_id == request.bundle_id:
                continue
            if not _explained_by(faults, former, request):
                self.counts["overlaps"] += 1
                if self.counts["overlaps"] <= 5:
                    self.problem(
                        f"two POSTs of chat {chat} at once: {former.bundle_id} from {former.received_at} to "
                        f"{former.ended_at}, {request.bundle_id} from {request.received_at}"
                    )


def key_of(post: Post) -> Key:
    """What a request must have in common with a POST."""
    return (post["path"], post["body"])


def _explained_by(faults: list[Fault], former: Received, request: Received) -> bool:
    """Whether the former request was under way at a fault that cut it off from its process."""
    ended = former.ended_at or request.received_at
    return any(former.received_at <= fault.until and ended >= fault.since for fault in faults)
