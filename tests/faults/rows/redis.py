"""Redis dies, forgets, refuses."""

from __future__ import annotations

import time

from rig import Broken
from rows.row import IN_FLIGHT, SMALL_LANES, Row, note_load, pause
from system import Plan, System


def redis_kill(system: System) -> None:
    """Kills Redis; it comes back empty, or with what it had written to the disk."""
    pause(system, 4, 6)
    while system.loading:
        note_load(system)
        since = time.time()
        system.rig.kill_redis()
        pause(system, 0, 4)
        system.rig.start_redis(aof=system.plan.aof, fresh=not system.plan.aof)
        system.hit("Redis killed")
        system.fault("Redis lost", since, time.time() + 2, 2 * IN_FLIGHT, forgets=True)
        pause(system, 3, 9)


def redis_flush(system: System) -> None:
    """Empties Redis at any time, and just when boundaries close."""
    pause(system, 4, 6)
    while system.loading:
        if system.random.random() < 0.6:
            closing = system.plan.hour - (time.time() - system.plan.grace) % system.plan.hour
            system.pass_time(closing + system.random.uniform(0, 0.4))
            system.hit("emptied around a boundary")
        note_load(system)
        since = time.time()
        ask(system, "FLUSHALL")
        system.hit("Redis emptied")
        system.fault("Redis emptied", since, time.time() + 2, 2 * IN_FLIGHT, forgets=True)
        pause(system, 2, 7)


def redis_refuses(system: System) -> None:
    """Redis answers nothing for a while, only reads, or says that it is full."""
    pause(system, 4, 6)
    troubles = system.each_in_turn(["pause", "readonly", "full"])
    while system.loading:
        note_load(system)
        since = time.time()
        trouble = next(troubles)
        seconds = system.random.uniform(1, 8)
        if trouble == "pause":
            ask(system, "CLIENT", "PAUSE", str(int(seconds * 1000)), "ALL")
            system.pass_time(seconds)
        elif trouble == "readonly":
            ask(system, "REPLICAOF", "127.0.0.1", "1")
            system.pass_time(seconds)
            ask(system, "REPLICAOF", "NO", "ONE")
        else:
            ask(system, "CONFIG", "SET", "maxmemory", "1")
            system.pass_time(seconds)
            ask(system, "CONFIG", "SET", "maxmemory", "0")
        system.hit(f"Redis: {trouble}")
        # A health that went by unrecorded is one request in flight at most; none is lost with the connection.
        system.fault(f"Redis: {trouble}", since, time.time() + 2, 0)
        pause(system, 3, 8)


def failover(system: System) -> None:
    """Redis dies, and a replica takes its place that has heard nothing of the last seconds, or of half a minute."""
    pause(system, 4, 6)
    while system.loading:
        system.rig.follow_redis()
        pause(system, 1, 4)
        before = applied(system)
        system.rig.cut_replication()
        pause(system, 1, 7)
        note_load(system)
        since = time.time()
        behind = applied(system) - before
        system.rig.fail_over()
        system.hit("failovers")
        system.hit("records that the replica lacked", behind)
        system.fault("failover of Redis", since, time.time() + 3, 2 * IN_FLIGHT, forgets=True)
        pause(system, 3, 9)


def applied(system: System) -> int:
    """How many records `aggregate` has taken into windows, by what Redis knows."""
    owners = (f"{{{system.prefix}me:{partition}}}:owner" for partition in range(system.plan.partitions))
    return sum(int(system.rig.redis_value("HGET", owner, "applied") or 0) for owner in owners)


def ask(system: System, *words: str) -> None:
    answer = system.rig.redis(*words)
    if not answer.startswith("+"):
        raise Broken(f"Redis answers `{answer}` to {words}")


def aof(seconds: float) -> Plan:
    return Plan(seconds=seconds, aof=True, settings=dict(SMALL_LANES))


ROWS = [
    Row("redis-kill", "kill -9 of Redis, which keeps nothing", redis_kill, ("Redis killed", "with windows open")),
    Row("redis-kill-aof", "kill -9 of Redis, which loses its last second", redis_kill, ("Redis killed", "with windows open"), aof),
    Row("redis-flush", "FLUSHALL, also while a boundary closes", redis_flush, ("Redis emptied", "emptied around a boundary")),
    Row("redis-refuses", "Redis pauses, is read-only, is full", redis_refuses, ("Redis: pause", "Redis: readonly", "Redis: full")),
    Row("failover", "Redis fails over to a replica that lacks the last seconds", failover,
        ("failovers", "records that the replica lacked", "with windows open"),
        lambda seconds: Plan(seconds=max(seconds, 75), far=True, settings=dict(SMALL_LANES))),
]
