"""What a row is, and what rows have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ledger import Ledger
from system import SESSION_S, Plan, Process, System

LANES = 8
"""Webhooks of a run: four granularities in two workspaces."""
CEILING = 8
"""Requests in flight of one lane."""
IN_FLIGHT = 2 * LANES * CEILING
"""What one process may have sent and not recorded: what is in flight, and as much answered a moment ago."""
SMALL_LANES = {"LANE_REQUESTS": "4", "LANE_REQUESTS_CEILING": str(CEILING)}


@dataclass
class Row:
    """One kind of disturbance."""

    name: str
    about: str
    run: Callable[[System], None]
    """Disturbs a system under load, until the load ends."""
    must_hit: tuple[str, ...]
    plan: Callable[[float], Plan] = field(default=lambda seconds: Plan(seconds=seconds, settings=dict(SMALL_LANES)))
    check: Callable[[System, Ledger], list[str]] = field(default=lambda system, ledger: [])
    """Problems that only this row looks for, once everything is settled."""
    orderly: bool = False
    """Nothing dies or is cut off, so nothing may be written twice and no partition claimed twice in a row."""
    counted: bool = False
    """No process ends, so their counters must be the oracle's numbers."""


def pause(system: System, least: float, most: float) -> None:
    """Lets a time pass between two limits in seconds."""
    system.pass_time(system.random.uniform(least, most))


def note_load(system: System) -> None:
    """Notes what was under way at the moment of a fault."""
    if system.receiver.in_flight:
        system.hit("with requests in flight")
    if system.sum("deliver", "bundlehook_deliveries_parked"):
        system.hit("with deliveries parked")
    if system.sum("aggregate", "bundlehook_boundaries_open"):
        system.hit("with windows open")


def kill_now(system: System, process: Process) -> None:
    """Kills a process, and notes which repeats that explains."""
    note_load(system)
    now, unrecorded = time.time(), system.unrecorded()
    system.kill(process)
    if process.role == "deliver":
        system.fault("kill of deliver", now, time.time() + SESSION_S, unrecorded)
        if unrecorded:
            system.hit("deliver killed with requests in flight")
    system.hit(f"{process.role} killed")


def slow_receiver(seconds: float) -> Plan:
    """The receiver is slower than the load, and memory is small, so deliveries are parked."""
    return Plan(seconds=seconds, rate=120, delay=(0.15, 0.6), settings={**SMALL_LANES, "WAITING_MEMORY": "1"})
