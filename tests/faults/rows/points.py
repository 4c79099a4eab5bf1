"""Processes that die, or stand still until others took over, between one named step and the next. The program must be
built with the feature `failpoints`, which knows the steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rig import Broken
from rows.row import CEILING, SMALL_LANES, Row, pause
from system import SESSION_S, Plan, Process, System

REACH_SECONDS = 15
"""A step that was not reached for so long is tried again later."""
RETRIES = "500ms,500ms,500ms,500ms,5s,5s,5s,5s,5s,5s"
"""A webhook is warned fast, and not disabled before it answers again."""
CLAIM = ("aggregate.token-set", "aggregate.claiming", "aggregate.claim-committed", "aggregate.state-taken")
"""Whoever claims after one that broke off here begins anew, and knows no more which messages were sent at once before."""
_ENDED = object()
SEARCHED = ("failures", "recovery", "warning")
"""Where these happen is not known before, so each process of the role is prepared."""


@dataclass(frozen=True)
class Point:
    """A step, and what must happen for a process to come to it; `most` is the greatest number of times it gets there."""

    name: str
    most: int = 1
    needs: str = ""
    """`loss`: Redis forgets just before; `failures`: an endpoint fails; `recovery`: one that failed answers again;
    `warning`: one fails for long; `silence`: no message comes for a while."""

    @property
    def role(self) -> str:
        return self.name.partition(".")[0]


POINTS = [
    Point("aggregate.polled", 30), Point("aggregate.applied", 30), Point("aggregate.produced", 30),
    Point("aggregate.closing", 5), Point("aggregate.boundary-logged", 1, "silence"),
    Point("aggregate.committing", 10), Point("aggregate.committed", 10),
    Point("aggregate.token-set"), Point("aggregate.claiming"), Point("aggregate.claim-committed"), Point("aggregate.state-taken", 1, "loss"),
    Point("deliver.answered", 50), Point("deliver.counted", 50), Point("deliver.recorded", 50), Point("deliver.committing", 3),
    Point("deliver.health-logged", 1, "failures"), Point("deliver.put", 3, "failures"), Point("deliver.queued", 3, "failures"),
    Point("deliver.taken-out", 2, "recovery"),
    Point("deliver.outbox", 1, "warning"), Point("deliver.notice", 1, "warning"), Point("deliver.noticed", 1, "warning"),
    Point("deliver.token-set"), Point("deliver.claim-committed"),
    Point("deliver.claim-marked", 1, "loss"), Point("deliver.queue-begun", 1, "loss"), Point("deliver.queue-restored", 1, "loss"),
]


def _in_flight(plan: Plan) -> int:
    """What one process may have sent and not recorded: what is in flight, and as much answered a moment ago."""
    return 2 * CEILING * plan.workspaces * len(plan.granularities.split(","))


class Trap:
    """One role's way through its steps: each time a process is started that dies, or stops, at the next of them."""

    def __init__(self, system: System, role: str, stops: bool) -> None:
        self._system, self._stops = system, stops
        self._points = [point for point in POINTS if point.role == role]
        self._left = system.random.sample(self._points, len(self._points))
        self._processes = system.of(role)
        # A webhook is warned once a day.
        self._unwarned = [f"/ws-{number + 1}/{granularity}" for granularity in ("none", "1h") for number in range(system.plan.workspaces)]
        self.failing = ""
        """The path of the webhook that fails."""

    def moment(self, point: Point) -> str:
        """What is noted when the point was hit."""
        return f"{'stood still' if self._stops else 'died'} at {point.name}"

    def steps(self) -> Iterator[None]:
        """Goes through all steps, and on at random; comes back wherever time must pass."""
        system = self._system
        while system.loading:
            point = self._left.pop(0) if self._left else system.random.choice(self._points)
            yield from self._try(point)
            if not system.hits[self.moment(point)]:
                self._left.append(point)
            yield from _wait(0.5)

    def _try(self, point: Point) -> Iterator[None]:
        system = self._system
        if point.needs == "warning":
            self._unwarned.append(self._unwarned.pop(0))
            self.failing = self._unwarned[-1]
        elif point.needs in SEARCHED:
            self.failing = system.random.choice(["/ws-1/none", "/ws-2/none"])
        armed = self._processes if point.needs in SEARCHED and not self._stops else [system.random.choice(self._processes)]
        for process in armed:
            # What has hardly begun does not know yet how to stop.
            yield from _wait(REACH_SECONDS, process.is_ready)
            system.terminate(process)
        if point.needs == "loss":
            since = time.time()
            system.rig.redis("FLUSHALL")
            system.fault("Redis emptied", since, time.time() + 2, 2 * _in_flight(system.plan), forgets=True)
        for process in armed:
            count = system.random.randint(1, point.most)
            process.extra = {"BUNDLEHOOK_FAILPOINT": f"{point.name}:{count}{':stop' if self._stops else ''}"}
            system.start(process)
            process.wanted = False
        if point.needs == "silence":
            yield from _wait(2)
            system.pause_load()
        yield from self._wait_reached(point, armed)
        # From now on each may be dead, though it is looked at only when those before it are done with.
        since = time.time() - 1
        system.resume_load()
        self.failing = ""
        for process in armed:
            yield from self._disarm(point, process, since)

    def _wait_reached(self, point: Point, armed: list[Process]) -> Iterator[None]:
        began = time.monotonic()
        while time.monotonic() < began + REACH_SECONDS:
            if point.needs == "recovery" and time.monotonic() > began + 4:
                self.failing = ""
            if any(self._has_reached(process) for process in armed):
                return
            yield

    def _has_reached(self, process: Process) -> bool:
        return self._stands(process) if self._stops else not process.runs

    def _stands(self, process: Process) -> bool:
        if not process.runs or process.child is None:
            return False
        return Path(f"/proc/{process.child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def _disarm(self, point: Point, process: Process, since: float) -> Iterator[None]:
        """Brings a process to life again, or ends what did not come to the point and starts it as usual."""
        system = self._system
        if not self._has_reached(process):
            # It may still come there while it stops.
            assert process.child is not None
            process.child.terminate()
            deadline = time.monotonic() + 30
            while process.runs and not self._stands(process):
                if time.monotonic() > deadline:
                    raise Broken(f"{process.name} does not end")
                yield
        if process.runs:
            yield from self._outlast(point, process)
        elif process.child is not None and process.child.returncode == -signal.SIGKILL:
            self._note_death(point, since)
            yield from _wait(system.random.choice([0, 0, 2 * SESSION_S]))
        elif process.child is not None and process.child.returncode != 0:
            system.ended.append(f"{process.name} ended with {process.child.returncode} at {point.name}: {system.last_error(process)}")
        process.extra = {}
        if not process.runs:
            system.start(process)
        process.wanted = True

    def _note_death(self, point: Point, since: float) -> None:
        system = self._system
        system.hit(self.moment(point))
        if point.role == "deliver" or point.name in CLAIM:
            # On a busy machine a death is seen when what was in flight has long been answered.
            repeats = max(system.unrecorded(), _in_flight(system.plan)) if point.role == "deliver" else 0
            system.fault(self.moment(point), since, time.time() + SESSION_S, repeats, forgets=point.name in CLAIM)

    def _outlast(self, point: Point, process: Process) -> Iterator[None]:
        """Lets a process that stands still go on when others have taken over."""
        system = self._system
        since = time.time() - 1
        deadline = time.monotonic() + 5 * SESSION_S
        owned = f'bundlehook_partitions_owned{{role="{point.role}"'
        while sum(other.sum(owned) for other in self._processes if other is not process) < system.plan.partitions:
            if time.monotonic() > deadline:
                break
            yield
        else:
            system.hit(self.moment(point))
        yield from _wait(system.random.uniform(0.5, 2))
        system.thaw(process)
        if point.role == "deliver" or point.name in CLAIM:
            repeats = _in_flight(system.plan) if point.role == "deliver" else 0
            system.fault(self.moment(point), since, time.time() + 2, repeats, forgets=point.name in CLAIM)
        yield from _wait(system.random.uniform(0.5, 2))


def _wait(seconds: float, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Lets a time pass, or less if something is true before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        yield


def _go(system: System, stops: bool) -> None:
    healthy = system.receiver.behaviour
    traps = [Trap(system, role, stops) for role in ("aggregate", "deliver")]
    system.receiver.behaviour = lambda path: (500, 0.0) if any(trap.failing == path for trap in traps) else healthy(path)
    pause(system, 3, 5)
    ways = [trap.steps() for trap in traps]
    while ways:
        ways = [way for way in ways if next(way, _ENDED) is not _ENDED]
        system.pass_time(0.05)


def points(system: System) -> None:
    """Processes die at each named step."""
    _go(system, stops=False)


def stalls(system: System) -> None:
    """Processes stand still at each named step until others took over, and go on."""
    _go(system, stops=True)


def _plan(least: float) -> Callable[[float], Plan]:
    # Many webhooks, as each can be warned but once, and often by a process that is not prepared.
    return lambda seconds: Plan(
        seconds=max(seconds, least), rate=100, workspaces=8, failpoints=True, settings={**SMALL_LANES, "RETRY_SCHEDULE": RETRIES},
    )


ROWS = [
    Row("points", "processes die at each named step", points, tuple(f"died at {point.name}" for point in POINTS), _plan(360)),
    Row("stalls", "processes stand still at each named step until others took over", stalls,
        tuple(f"stood still at {point.name}" for point in POINTS), _plan(420)),
]
