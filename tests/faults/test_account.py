#!/usr/bin/env python3
"""The account notices whatever is wrong: `python3 -m unittest discover -s tests/faults`."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import unittest
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import records
from account import Account, Fault, Post, key_of
from receiver import Received
from store import Store

import expected as oracle
import generate
import settings
from webhooks import History
from windows import Rules

NOW = 1_750_000_000_000


@functools.cache
def contract() -> oracle.Oracle:
    """The oracle after some hundred messages of a few chats."""
    options = generate.parse_arguments(["--seed", "5", "--events", "400", "--chats", "12", "--now", str(NOW), "--span", "20000"])
    values = [line.decode() for line in generate.lines(options)]
    events = [{"partition": 0, "offset": at, "timestamp": NOW + 50 * at, "key": "7", "value": value} for at, value in enumerate(values)]
    webhooks = [
        {"partition": 0, "offset": at, "timestamp": 0, "key": webhook["webhook_id"], "value": json.dumps(webhook)}
        for at, webhook in enumerate(settings.webhooks(1, ["none", "1h", "6h"], "http://127.0.0.1:9000"))
    ]
    run = oracle.Oracle(History(webhooks), Rules(hour_ms=2_000, grace_ms=500), "TimelinesAI")
    run.run(events, {})
    return run


class Accounts(unittest.TestCase):
    """A run whose receiver got everything as it had to come, and then something wrong."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(Path(folder.name) / "bodies")
        self.addCleanup(self.store.close)
        named = lambda posts: [post.__dict__ | {"body": self.store.add(post.body.encode())} for post in posts]
        self.posts, self.repeats = named(contract().posts), named(contract().repeats)
        self.received = [self.request(post, number) for number, post in enumerate(self.posts)]
        self.faults: list[Fault] = []
        self.late: Counter[str] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()

    def request(self, post: Post, at: float, status: int = 200, **changes: str) -> Received:
        """The request that a POST should be, with some headers changed."""
        headers = {
            "content-type": "application/json; charset=utf-8", "user-agent": "Bundlehook/0.1.0",
            "webhook-id": str(hash(tuple(map(str, post["identity"])))), "webhook-timestamp": "1750000000",
        }
        if post["part"]:
            headers["bundlehook-part"] = str(post["part"])
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        head = "\r\n".join(f"{name}: {value}" for name, value in headers.items()).encode()
        return Received(post["path"], head, post["body"], status, at, at + 0.5)

    def account(self) -> Account:
        """What the account says of what was received."""
        account = Account()
        account.settle(self.posts, self.copies, self.received, self.faults, self.late, self.store)
        return account

    def assert_problems(self, *starts: str) -> Account:
        """Asserts that the problems begin so, and are no others."""
        account = self.account()
        said = [next((start for start in starts if problem.startswith(start)), problem) for problem in account.problems]
        self.assertEqual(sorted(set(said)), sorted(starts), account.details)
        return account

    def place_of_an_aggregate(self) -> int:
        """Where the first of two bundles of a chat stands that follow one another."""
        return next(
            at for at, (one, two) in enumerate(zip(self.posts, self.posts[1:]))
            if one["granularity"] == "1h" and (one["webhook_id"], one["chat_id"]) == (two["webhook_id"], two["chat_id"])
        )

    def test_what_came_as_it_must_is_right(self) -> None:
        account = self.assert_problems()
        self.assertEqual(account.counts["POSTs expected"], len(self.posts))
        self.assertGreater(len(self.posts), 300)

    def test_a_lost_request(self) -> None:
        del self.received[100]
        self.assertEqual(self.assert_problems("missing: 1").counts["lost"], 1)

    def test_a_request_that_nothing_demands(self) -> None:
        invented = self.posts[3] | {"body": self.store.add(b'{"chat":{"chat_id":"1"},"message":{"message_id":"m"}}'), "identity": ["other"]}
        self.received.append(self.request(invented, 5_000))
        self.assertEqual(self.assert_problems("unexpected: 1").counts["spurious"], 1)

    def test_an_attempt_that_nothing_demands(self) -> None:
        invented = self.posts[3] | {"body": self.store.add(b'{"chat":{"chat_id":"1"}}')}
        self.received.append(self.request(invented, 5_000, status=500))
        self.assertEqual(self.assert_problems("unexpected attempts: 1").counts["spurious"], 1)

    def test_a_request_at_another_webhook(self) -> None:
        self.received[7].path = "/ws-1/elsewhere"
        self.assert_problems("missing: 1", "unexpected: 1")

    def test_a_body_with_one_byte_changed(self) -> None:
        body = self.store.text(self.received[50].body).encode()
        self.received[50].body = self.store.add(body.replace(b"received", b"receivee", 1).replace(b'"sent"', b'"sens"', 1))
        account = self.assert_problems("missing: 1", "unexpected: 1")
        self.assertIn("differs", account.details)

    def test_two_of_a_chat_in_the_wrong_order(self) -> None:
        at = self.place_of_an_aggregate()
        one, two = self.received[at : at + 2]
        self.received[at], self.received[at + 1] = two, one
        one.received_at, two.received_at = two.received_at, one.received_at
        one.ended_at, two.ended_at = one.received_at + 0.5, two.received_at + 0.5
        self.assert_problems("out of order: 1")

    def test_two_of_a_chat_at_once(self) -> None:
        at = self.place_of_an_aggregate()
        self.received[at].ended_at = self.received[at + 1].received_at + 0.1
        self.assert_problems("two POSTs of chat")
        self.faults.append(Fault("kill", at - 1, at + 3, 1))
        self.assert_problems()

    def test_a_message_in_another_window(self) -> None:
        at = self.place_of_an_aggregate()
        one, two = (json.loads(self.store.text(request.body)) for request in self.received[at : at + 2])
        two["messages"].insert(0, one["messages"].pop())
        for request, body in zip(self.received[at : at + 2], (one, two)):
            request.body = self.store.add(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
        self.assert_problems("missing: 2", "unexpected: 2")

    def test_a_repeat_needs_a_fault(self) -> None:
        last = len(self.posts) - 1
        self.received.append(self.request(self.posts[last], last + 1))
        account = self.assert_problems("a repeat without a cause")
        self.assertEqual(account.counts["repeats"], 1)
        self.faults.append(Fault("kill", last + 0.2, last + 3, 1))
        self.assert_problems()

    def test_a_repeat_that_failed_is_tried_again(self) -> None:
        self.faults.append(Fault("kill", 20, 23, 1))
        self.received += [self.request(self.posts[20], 100 + number, status=status) for number, status in enumerate((500, 500, 200))]
        account = self.assert_problems()
        self.assertEqual((account.counts["repeats"], account.counts["retries of a repeat that failed"]), (1, 2))
        self.received.append(self.request(self.posts[20], 110))
        self.assert_problems("a repeat without a cause")

    def test_an_answer_that_came_too_late_explains_one_repeat(self) -> None:
        last = len(self.posts) - 1
        self.received[last].ended_at = last + 1.2
        self.received.append(self.request(self.posts[last], last + 1))
        self.assert_problems("a repeat without a cause", "two POSTs of chat")
        self.late[self.received[last].bundle_id] += 1
        self.assertEqual(self.assert_problems().counts["retries after an answer that came too late"], 1)
        self.received.append(self.request(self.posts[last], last + 3))
        self.assert_problems("a repeat without a cause")

    def test_a_fault_explains_no_more_repeats_than_were_in_flight(self) -> None:
        self.faults.append(Fault("kill", 20, 23, 1))
        self.received += [self.request(self.posts[number], 22) for number in (20, 21)]
        self.assert_problems("kill explains at most 1 repeats, but 2 belong to it")

    def test_a_repeat_under_another_id(self) -> None:
        self.faults.append(Fault("kill", 20, 23, 5))
        self.received.append(self.request(self.posts[20], 21, webhook_id="other"))
        self.assert_problems("received too often: 1", "ids: 1")

    def test_two_posts_under_one_id(self) -> None:
        self.received[30] = self.request(self.posts[30], 30, webhook_id=self.received[31].bundle_id)
        self.assert_problems("ids: 1")

    def test_a_wrong_header(self) -> None:
        self.received[30] = self.request(self.posts[30], 30, content_type="text/plain")
        self.assert_problems("headers: 1")

    def test_a_copy_may_come_only_where_redis_forgot(self) -> None:
        copy = next(post for post in self.repeats if key_of(post) not in set(map(key_of, self.posts)))
        self.received.append(self.request(copy, 5_000))
        self.copies = Counter(map(key_of, self.repeats))
        self.assert_problems("unexpected: 1")
        self.faults = [Fault("Redis emptied", 5_001, 5_002, 0, forgets=True)]
        self.assert_problems("unexpected: 1")
        self.faults = [Fault("Redis emptied", 4_998, 4_999, 0, forgets=True)]
        self.assertEqual(self.assert_problems().counts["copies that Redis forgot"], 1)
        self.received.append(self.request(copy, 5_003))
        self.assert_problems("a repeat without a cause")
        self.faults.append(Fault("kill", 5_000, 5_002, 1))
        self.assert_problems()

    def test_a_copy_that_is_like_its_original_may_be_repeated_as_any_other(self) -> None:
        self.received.append(self.request(self.posts[20], 5_000))
        self.copies[key_of(self.posts[20])] += 1
        self.faults = [Fault("Redis emptied", 4_998, 4_999, 0, forgets=True)]
        self.assertEqual(self.assert_problems().counts["copies that Redis forgot"], 1)
        self.received.append(self.request(self.posts[20], 5_003))
        self.assert_problems("a repeat without a cause")
        self.faults.append(Fault("kill", 5_000, 5_002, 1))
        self.assert_problems()

    def test_a_copy_may_come_after_the_repeat_of_its_original(self) -> None:
        self.received += [self.request(self.posts[20], 5_000), self.request(self.posts[20], 5_003)]
        self.copies[key_of(self.posts[20])] += 1
        self.faults = [Fault("Redis emptied", 10, 11, 0, forgets=True)]
        self.assert_problems("a repeat without a cause")
        self.faults.append(Fault("kill", 20, 23, 1))
        self.assertEqual(self.assert_problems().counts["repeats"], 1)
        # Nor does it matter that something explains none where the copy came.
        self.faults.append(Fault("kill of aggregate", 4_998, 5_001, 0))
        self.assert_problems()
        self.received.append(self.request(self.posts[20], 5_006))
        self.assert_problems("kill of aggregate explains at most 0 repeats, but 1 belong to it")


class OwnRecords(unittest.TestCase):
    """What the product wrote to Kafka."""

    def bundle(self, offset: int, position: str, value: str) -> dict[str, Any]:
        """A record of `bundles`."""
        return {"partition": 0, "offset": offset, "headers": {"stream": "none", "position": position, "bundle-id": "b"}, "value": value}

    def problems(self, *bundles: dict[str, Any]) -> tuple[list[str], Counter[str]]:
        """What is said of bundles."""
        counts: Counter[str] = Counter()
        return list(records.check_positions(bundles, counts)), counts

    def test_a_position_has_one_content(self) -> None:
        problems, counts = self.problems(self.bundle(0, "1", "a"), self.bundle(1, "2", "b"), self.bundle(2, "1", "a"))
        self.assertEqual((problems, counts["bundles of `none` written again"]), ([], 1))
        problems, _ = self.problems(self.bundle(0, "1", "a"), self.bundle(1, "1", "b"))
        self.assertEqual(len(problems), 1)

    def attempts(self, *outcomes: tuple[str, str]) -> list[dict[str, Any]]:
        """Records of `delivery-attempts`, of bundle and outcome."""
        return [{"value": json.dumps({"outcome": outcome, "bundle": {"bundle_id": bundle}})} for bundle, outcome in outcomes]

    def test_each_delivery_is_recorded_and_no_other(self) -> None:
        received = [Received("/", f"webhook-id: {name}".encode(), "", status, 0.0) for name, status in (("a", 200), ("b", 500), ("b", 200))]
        said: Callable[..., list[str]] = lambda *outcomes: list(records.check_attempts(self.attempts(*outcomes), received, Counter(), Counter()))
        self.assertEqual(said(("a", "delivered"), ("b", "status"), ("b", "delivered")), [])
        self.assertEqual(len(said(("a", "delivered"), ("b", "status"))), 1)
        self.assertEqual(len(said(("a", "delivered"), ("b", "delivered"), ("b", "delivered"))), 1)
        self.assertEqual(len(said(("a", "delivered"), ("b", "delivered"), ("c", "delivered"))), 1)


if __name__ == "__main__":
    unittest.main()
