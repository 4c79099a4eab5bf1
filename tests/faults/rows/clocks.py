"""Clocks that are wrong: ours, and those that stamp the records."""

from __future__ import annotations

import random
import sys
import time

from rows.row import SMALL_LANES, Row, kill_now, pause
from system import ORACLE, Plan, System
from upstream import Upstream, chat_of

sys.path.insert(0, str(ORACLE))
import generate  # noqa: E402

HOUR_MS = 3_600_000
SKEW_MS = 4_000
"""Timestamps of records are wrong by at most so much."""


def clocks(system: System) -> None:
    """Processes whose clocks are an hour ahead, right, or an hour behind take over from one another."""
    pause(system, 3, 5)
    ways = system.each_in_turn([(role, ahead) for role in ("aggregate", "deliver") for ahead in (HOUR_MS, -HOUR_MS, 0)])
    while system.loading:
        role, ahead = next(ways)
        process = system.random.choice(system.of(role))
        if system.random.random() < 0.5:
            kill_now(system, process)
        else:
            system.terminate(process)
        process.extra = {"BUNDLEHOOK_CLOCK_AHEAD_MS": str(ahead)}
        system.start(process)
        system.until(f"{process.name} to be ready", 60, process.is_ready)
        system.hit(f"{role}: {'right' if not ahead else 'an hour ahead' if ahead > 0 else 'an hour behind'}")
        if system.random.random() < 0.3 and system.loading:
            # Windows close by a clock then.
            system.pause_load()
            pause(system, 2, 2 * system.plan.hour)
            system.resume_load()
            system.hit("nothing came for a while")
        pause(system, 1, 5)
    # A window of an idle partition closes late by what a clock is behind; in the end somebody sets them.
    for process in system.processes:
        process.extra = {}
        system.terminate(process)
        system.start(process)
    closed = 'bundlehook_boundaries_closed_total{by="clock"}'
    system.until("a boundary to close by the clock", 60, lambda: system.sum("aggregate", closed) > 0)
    system.hit("boundaries closed by the clock", int(system.sum("aggregate", closed)))


def timestamps(system: System) -> None:
    """Records are stamped by clocks that are seconds ahead or behind, each record by another."""
    # It is the broker that stamps them as a rule, which is checked where a role starts.
    system.rig.admin("kafka.admin.ConfigCommand", "--alter", "--entity-type", "topics", "--entity-name",
                     f"{system.prefix}message-events", "--add-config", "message.timestamp.type=CreateTime")
    options = generate.parse_arguments(["--seed", str(system.seed + 1), "--chats", "100", "--workspaces", str(system.plan.workspaces),
                                        "--max-ahead", "2000", "--events", str(100_000), "--span", str(100_000 * 20)])
    generator = generate.Generator(options)
    upstream = Upstream(system)
    skew, last = random.Random(system.seed), 0
    number = 0
    while system.loading:
        for _ in range(10):
            line = generator.line(generator.event(number))
            stamp = int(time.time() * 1000) + skew.choice([0, skew.randint(-SKEW_MS, SKEW_MS)])
            upstream.send(chat_of(line), line, stamp)
            system.hit("stamps before that of the record before" if stamp < last else "stamps in order")
            last, number = stamp, number + 1
        upstream.flush()
        system.pass_time(0.2)
    upstream.close()


def _plan(seconds: float) -> Plan:
    return Plan(seconds=seconds, rate=100, failpoints=True, settings=dict(SMALL_LANES))


ROWS = [
    Row("clocks", "our clocks are an hour ahead or behind, and differ", clocks,
        ("aggregate: an hour ahead", "aggregate: an hour behind", "deliver: an hour ahead", "deliver: an hour behind",
         "nothing came for a while", "boundaries closed by the clock"), lambda seconds: _plan(max(seconds, 75))),
    Row("timestamps", "records are stamped seconds too early or too late", timestamps, ("stamps before that of the record before",),
        lambda seconds: Plan(seconds=seconds, rate=75, settings=dict(SMALL_LANES)), orderly=True),
]
