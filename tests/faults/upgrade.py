"""A row of its own: the processes of another release are replaced under load, one by one, by those of this one, and back."""

from __future__ import annotations

from pathlib import Path

from rows import Row
from system import Plan, System

UPGRADED = "replaced by this release"
BACK = "put back to the other release"
BESIDE = "both releases side by side"


def row(new: Path) -> Row:
    """The row that begins with the other release and goes on to the program `new`."""
    plan = lambda seconds: Plan(seconds=seconds, settings={"LANE_REQUESTS": "4", "LANE_REQUESTS_CEILING": "8"})
    about = "rolling upgrade from another release and back"
    # Nothing dies: every process that is replaced finishes, so nothing is sent or written twice.
    return Row("upgrade", about, lambda system: _upgrade(system, new), (UPGRADED, BACK, BESIDE), plan, orderly=True)


def _upgrade(system: System, new: Path) -> None:
    old = system.binary
    system.pass_time(5)
    while system.loading:
        _replace(system, new, UPGRADED)
        _replace(system, old, BACK)
    # What is left is brought to its end by this release.
    _replace(system, new, UPGRADED)


def _replace(system: System, binary: Path, moment: str) -> None:
    """Does as docs/operations.md says: first the topics, then one process after the other."""
    system.binary = binary
    system.tool("topics", "--partitions", str(system.plan.partitions))
    left = system.random.sample(system.processes, len(system.processes))
    while left:
        process = left.pop()
        system.terminate(process)
        system.start(process)
        system.until(f"{process.name} to be ready", 60, process.is_ready)
        system.hit(moment)
        if any(other.role == process.role for other in left):
            system.hit(BESIDE)
        system.pass_time(system.random.uniform(0.5, 3))
