"""The eleventh failure in a row, which disables a webhook, at the worst moments. The program must be built with the
feature `failpoints`."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from ledger import Ledger
from console import Console
from rows.row import Row, pause
from system import SESSION_S, Plan, System

MOST_FAILURES = 10
HANGS_SECONDS = 10
"""So long a request is under way that will fail."""
STEPS = [
    ("the failure is logged", "deliver.health-logged:11"), ("the disabling stands in the outbox", "deliver.outbox:2"),
    # The warning at the fifth failure had two records.
    ("the event is published", "deliver.notice:3"), ("the e-mail is published", "deliver.notice:4"),
    ("the state is published", "deliver.notice:5"), ("the outbox is to be cleared", "deliver.noticed:2"),
]
"""Steps of a disabling, each with the name under which a process knows it, and how often it gets there before."""


class Endpoints:
    """Paths that fail, and how often they did."""

    def __init__(self, system: System) -> None:
        healthy = system.receiver.behaviour
        self.failed: Counter[str] = Counter()
        self._until: dict[str, int] = {}
        self._delay: dict[str, float] = defaultdict(float)

        def answer(path: str) -> tuple[int, float]:
            if self.failed[path] >= self._until.get(path, 0):
                return healthy(path)
            self.failed[path] += 1
            return 500, self._delay[path]

        system.receiver.behaviour = answer

    def fail(self, path: str, times: int = 1_000_000, delay: float = 0.0) -> None:
        """Lets the next requests of a path fail, each after so many seconds."""
        self.failed[path] = 0
        self._delay[path] = delay
        self._until[path] = times

    def heal(self, path: str) -> None:
        """Lets them succeed."""
        self._until[path] = 0


class Disabling:
    """Leads webhooks to their eleventh failure, one after the other."""

    def __init__(self, system: System) -> None:
        self._system, self._endpoints, self._console = system, Endpoints(system), Console(system)
        self._first, self._second = system.of("deliver")
        self.disablings: Counter[str] = Counter()
        """How often each webhook had to be disabled, by its id."""
        self._published = 0
        self._models: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """Events of each workspace."""
        for line in (system.folder / "events.jsonl").read_bytes().removesuffix(b"\n").split(b"\n"):
            # Python can't write this number again.
            if b"1e400" not in line:
                event = json.loads(line)
                self._models[event["workspace_id"]].append(event)
        # One process alone, so that it is known who will see the eleventh failure.
        system.terminate(self._second)

    def crash(self, number: int, moment: str, failpoint: str) -> None:
        """The only process dies at a step of the disabling; another one goes on."""
        system, path, webhook = self._system, f"/ws-{number}/none", f"wh-ws-{number}-none"
        system.terminate(self._first)
        self._first.extra = {"BUNDLEHOOK_FAILPOINT": failpoint}
        system.start(self._first)
        self._first.extra = {}
        self._first.wanted = False
        self._endpoints.fail(path)
        self._until(number, f"the process to die when {moment}", lambda: not self._first.runs)
        system.fault(f"died when {moment}", time.time() - 1, time.time() + SESSION_S, system.unrecorded())
        system.hit(f"died when {moment}")
        self._take_over()
        self._expect_disabled(number, webhook)
        system.hit("failures in excess of eleven", max(0, self._endpoints.failed[path] - MOST_FAILURES - 1))
        self._enable(webhook, path)

    def succeed_at_the_tenth(self, number: int) -> None:
        """Ten failures, a success, ten failures, a success: no disabling. The count began anew."""
        system, path, webhook = self._system, f"/ws-{number}/none", f"wh-ws-{number}-none"
        for _ in range(2):
            self._endpoints.fail(path, MOST_FAILURES)
            self._until(number, "ten failures", lambda: self._endpoints.failed[path] == MOST_FAILURES)
            self._until(number, "the success after them", lambda: self._state(webhook) == ("healthy", 0))
            system.hit("succeeded after ten failures")

    def enable_with_failures_in_flight(self, number: int) -> None:
        """Its owner switches it off and on while a request is under way that will fail: it counts no more."""
        system, path, webhook = self._system, f"/ws-{number}/none", f"wh-ws-{number}-none"
        self._endpoints.fail(path)
        self._until(number, "some failures", lambda: self._endpoints.failed[path] >= 6)
        self._endpoints.fail(path, delay=HANGS_SECONDS)
        self._until(number, "one that is under way", lambda: self._endpoints.failed[path] >= 1)
        self._command(webhook, "disable")
        self._command(webhook, "enable")
        under_way = (request for request in system.receiver.received[-2_000:] if request.path == path and request.ended_at is None)
        if any(request.status == 500 and request.received_at > time.time() - HANGS_SECONDS for request in under_way):
            system.hit("enabled again with a failure in flight")
        self._endpoints.fail(path)
        self._expect_disabled(number, webhook)
        if self._endpoints.failed[path] < MOST_FAILURES + 1:
            raise AssertionError(f"{webhook} was disabled after {self._endpoints.failed[path]} failures")
        self._enable(webhook, path)

    def _until(self, number: int, what: str, condition: Callable[[], bool]) -> None:
        """Waits for a condition while there is always something for the webhook's endpoint."""
        fed_at = 0.0

        def fed() -> bool:
            nonlocal fed_at
            if not self._system.loading and time.monotonic() > fed_at + 3:
                self._feed(number)
                fed_at = time.monotonic()
            return condition()

        self._system.until(what, 120, fed)

    def _feed(self, number: int) -> None:
        """Publishes some messages of a workspace."""
        lines = []
        for event in self._models[f"ws-{number}"][:5]:
            self._published += 1
            lines.append(json.dumps(event | {"message": event["message"] | {"message_id": f"more-{self._published}"}}).encode())
        self._system.publish_events(lines)

    def _take_over(self) -> None:
        system = self._system
        system.start(self._second)
        system.until("another one to be ready", 60, self._second.is_ready)
        system.start(self._first)
        system.until("the one that died to be ready", 60, self._first.is_ready)

    def leave_one(self) -> None:
        """Ends the second process, if it runs."""
        if self._second.runs:
            self._system.terminate(self._second)

    def restore(self) -> None:
        """Both run in the end."""
        if not self._second.runs:
            self._system.start(self._second)

    def _expect_disabled(self, number: int, webhook: str) -> None:
        self._until(number, f"{webhook} to be disabled", lambda: self._state(webhook)[0] == "disabled")
        self.disablings[webhook] += 1

    def _enable(self, webhook: str, path: str) -> None:
        self._endpoints.heal(path)
        self._command(webhook, "enable", held="send")
        self._system.until(f"{webhook} to be enabled", 60, lambda: self._state(webhook) == ("healthy", 0))
        self._system.hit("enabled again, the count is 0")

    def _command(self, webhook: str, name: str, **body: str) -> None:
        self._system.until(f"{name} of {webhook}", 60, lambda: self._console.ask("POST", f"/webhooks/{webhook}/{name}", body)[0] == 200)

    def _state(self, webhook: str) -> tuple[str, int]:
        status, view = self._console.ask("GET", f"/webhooks/{webhook}")
        return (view["state"], view["failures"]) if status == 200 else ("", -1)


def eleventh(system: System) -> None:
    """Crashes at each step of a disabling, a success after the tenth failure, enabling with failures in flight."""
    pause(system, 2, 4)
    disabling = Disabling(system)
    system.owner = disabling
    rounds = [("crash", step) for step in STEPS] + [("tenth", None), ("in flight", None)]
    for number, (kind, step) in enumerate(system.random.sample(rounds, len(rounds)), 1):
        disabling.leave_one()
        if step is not None:
            disabling.crash(number, *step)
        elif kind == "tenth":
            disabling.succeed_at_the_tenth(number)
        else:
            disabling.enable_with_failures_in_flight(number)
    disabling.restore()


def check(system: System, ledger: Ledger) -> list[str]:
    """Each disabling has one event and one e-mail, each with one id, however often they were published."""
    found: dict[str, dict[str, set[str]]] = {"webhook-events": defaultdict(set), "notifications": defaultdict(set)}
    for record in system.rig.records(f"{system.prefix}webhook-events"):
        if record["headers"]["ce_type"] == "webhook.disabled":
            found["webhook-events"][record["headers"]["ce_subject"]].add(record["headers"]["ce_id"])
            system.hit("events of disablings")
    for record in system.rig.records(f"{system.prefix}notifications"):
        notification = json.loads(record["value"])
        if notification["kind"] == "webhook.disabled":
            found["notifications"][notification["webhook_id"]].add(notification["notification_id"])
            system.hit("e-mails about disablings")
    wanted = dict(system.owner.disablings)
    return [
        f"disablings in `{topic}`: {counts}, expected {wanted}" for topic, ids in found.items()
        if (counts := {webhook: len(of_webhook) for webhook, of_webhook in ids.items()}) != wanted
    ]


def _plan(seconds: float) -> Plan:
    # One request a lane at a time: each failure counts.
    settings = {"LANE_REQUESTS": "1", "LANE_REQUESTS_CEILING": "1", "RETRY_SCHEDULE": "300ms", "REQUEST_TIMEOUT": f"{2 * HANGS_SECONDS}s"}
    # What waits at an endpoint that fails may be dropped by its owner long after it came.
    return Plan(seconds=max(seconds, 90), rate=80, workspaces=10, granularities="none", on_its_way=300, failpoints=True, settings=settings)


ROWS = [
    Row("eleventh", "the eleventh failure disables once, wherever the process dies", eleventh,
        (*(f"died when {moment}" for moment, _ in STEPS), "succeeded after ten failures", "enabled again with a failure in flight",
         "enabled again, the count is 0", "events of disablings", "e-mails about disablings"), _plan, check=check),
]
