"""Endpoints fail, hang, and recover."""

from __future__ import annotations

import time

from rows.row import CEILING, LANES, SMALL_LANES, Row, note_load, pause
from system import Plan, System


def outages(system: System) -> None:
    """Endpoints answer with errors, not at all, or close the connection, for a while each."""
    healthy = system.receiver.behaviour
    paths = [f"/ws-{number}/{granularity}" for number in (1, 2) for granularity in ("none", "1h", "6h", "24h")]
    pause(system, 3, 5)
    while system.loading:
        broken = set(system.random.sample(paths, system.random.randint(1, len(paths))))
        status, delay = system.random.choice([(500, 0.05), (503, 0.0), (0, 0.0), (200, 4.0), (302, 0.0), (404, 0.0)])
        since = time.time()
        if (status, delay) == (200, 4.0):
            system.hit("endpoints that hang")
        system.receiver.behaviour = lambda path: (status, delay) if path in broken else healthy(path)  # noqa: B023
        pause(system, 1, 6)
        system.receiver.behaviour = healthy
        if status == 200:
            # The receiver says 200, but too late: each of these is sent again.
            system.fault("endpoints that hang", since, time.time() + 5, 10 * LANES * CEILING)
        tripped = system.sum("deliver", 'bundlehook_circuit_changes_total{state="tripped"}')
        system.hits["circuits that tripped"] = int(tripped)
        note_load(system)
        pause(system, 4, 10)
    system.until("a circuit to recover", 60, lambda: system.sum("deliver", 'bundlehook_circuit_changes_total{state="healthy"}') > 0)
    system.hit("circuits that recovered")


def dead_hour(system: System) -> None:
    """All endpoints of a workspace are dead for more than an hour of the product, while all processes are rolled."""
    healthy = system.receiver.behaviour
    pause(system, 3, 5)
    system.receiver.behaviour = lambda path: (500, 0.0) if path.startswith("/ws-1/") else healthy(path)
    since = time.monotonic()
    while time.monotonic() < since + 1.5 * system.plan.hour or system.hits["stopped meanwhile"] < 2:
        process = system.random.choice(system.processes)
        system.terminate(process)
        system.hit("stopped meanwhile")
        system.start(process)
        pause(system, 1, 2)
    if system.sum("deliver", "bundlehook_deliveries_parked"):
        system.hit("with deliveries parked")
    system.receiver.behaviour = healthy
    system.wait_load()


ROWS = [
    Row("outages", "endpoints fail and recover", outages, ("circuits that tripped", "circuits that recovered", "with deliveries parked"),
        orderly=True),
    Row("dead-hour", "endpoints dead for an hour, rolling restarts meanwhile", dead_hour, ("with deliveries parked", "stopped meanwhile"),
        lambda seconds: Plan(seconds=seconds, hour=6, settings={**SMALL_LANES, "RETRY_SCHEDULE": "1s,2s"}), orderly=True),
]
