"""A row of its own: the processes of another release are replaced under load, one by one, by those of this one, and back."""

from __future__ import annotations

import time
from pathlib import Path

from rig import Broken
from rows import Row
from system import Plan, System

UPGRADED = "replaced by this release"
BACK = "put back to the other release"
BESIDE = "both releases side by side"
ANEW = "state of a later version built anew"

REBUILT = 'bundlehook_claims_total{role="aggregate",state="rebuilt"}'


def row(new: Path) -> Row:
    """The row that begins with the other release and goes on to the program `new`."""
    plan = lambda seconds: Plan(seconds=seconds, settings={"LANE_REQUESTS": "4", "LANE_REQUESTS_CEILING": "8"})
    about = "rolling upgrade from another release and back"
    # Nothing dies: every process that is replaced finishes, so nothing is sent or written twice.
    return Row("upgrade", about, lambda system: _upgrade(system, new), (UPGRADED, BACK, BESIDE), plan, orderly=True)


def _upgrade(system: System, new: Path) -> None:
    old, since = system.binary, time.time()
    system.pass_time(5)
    before = _version(system)
    anew = _replace(system, new, UPGRADED)
    differs = _version(system) != before
    while system.loading:
        anew += _replace(system, old, BACK)
        anew += _replace(system, new, UPGRADED)
    if anew and not differs:
        raise Broken(f"{anew:.0f} states of windows were built anew, though both releases have version {before}")
    if anew:
        # With a state that the other release can't read it also loses which messages were sent at once.
        system.fault(ANEW, since, since, 0, forgets=True)


def _version(system: System) -> str | None:
    """Of the state of windows in Redis."""
    return system.rig.redis_value("HGET", f"{{{system.prefix}me:0}}:owner", "v")


def _replace(system: System, binary: Path, moment: str) -> float:
    """Does as docs/operations.md says: first the topics, then one process after the other. How many states those that are
    replaced have built anew."""
    system.binary = binary
    system.tool("topics", "--partitions", str(system.plan.partitions))
    left, anew = system.random.sample(system.processes, len(system.processes)), 0.0
    while left:
        process = left.pop()
        anew += process.sum(REBUILT)
        system.terminate(process)
        system.start(process)
        system.until(f"{process.name} to be ready", 60, process.is_ready)
        system.hit(moment)
        if any(other.role == process.role for other in left):
            system.hit(BESIDE)
        system.pass_time(system.random.uniform(0.5, 3))
    return anew
