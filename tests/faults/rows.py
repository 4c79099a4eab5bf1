"""The rows of the suite: what is broken, when, and which moments must have been hit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rig import Broken
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
    orderly: bool = False
    """Nothing dies or is cut off, so nothing may be written twice and no partition claimed twice in a row."""


def _pause(system: System, least: float, most: float) -> None:
    system.pass_time(system.random.uniform(least, most))


def _note_load(system: System) -> None:
    """Notes what was under way at the moment of a fault."""
    if system.receiver.in_flight:
        system.hit("with requests in flight")
    if system.sum("deliver", "bundlehook_deliveries_parked"):
        system.hit("with deliveries parked")
    if system.sum("aggregate", "bundlehook_boundaries_open"):
        system.hit("with windows open")


# -- 1. SIGTERM --------------------------------------------------------------------------------------------------------


def sigterm(system: System) -> None:
    """Stops and starts one process after the other, all the time."""
    _pause(system, 4, 6)
    while system.loading:
        for process in system.random.sample(system.processes, len(system.processes)):
            _note_load(system)
            system.terminate(process)
            system.hit("stopped by SIGTERM")
            _pause(system, 0, 2)
            system.start(process)
            system.until(f"{process.name} to be ready", 60, process.is_ready)
            _pause(system, 0, 3)


def _sigterm_plan(seconds: float) -> Plan:
    # The receiver is slower than the load, and memory is small, so deliveries are parked.
    return Plan(seconds=seconds, rate=120, delay=(0.15, 0.6), settings={**SMALL_LANES, "WAITING_MEMORY": "1"})


# -- 2. kill -9 --------------------------------------------------------------------------------------------------------


def _kill(system: System, process: Process) -> None:
    _note_load(system)
    now, unrecorded = time.time(), system.unrecorded()
    system.kill(process)
    if process.role == "deliver":
        system.fault("kill of deliver", now, time.time() + SESSION_S, unrecorded)
        if unrecorded:
            system.hit("deliver killed with requests in flight")
    system.hit(f"{process.role} killed")


def kill(system: System) -> None:
    """Kills any process at any time; sometimes it comes back at once, sometimes after others took over."""
    _pause(system, 3, 5)
    while system.loading:
        victims = system.random.sample(system.processes, system.random.choice([1, 1, 1, 2, 4]))
        for process in victims:
            _kill(system, process)
        _pause(system, 0, system.random.choice([0.5, 2 * SESSION_S]))
        for process in victims:
            system.start(process)
        _pause(system, 0, 6)


# -- 3. SIGSTOP --------------------------------------------------------------------------------------------------------


def sigstop(system: System) -> None:
    """Freezes a process for longer than its group waits for it, then lets it go on."""
    _pause(system, 4, 6)
    roles = system.each_in_turn(["aggregate", "deliver"])
    while system.loading:
        process = system.random.choice(system.of(next(roles)))
        _note_load(system)
        since = time.time()
        system.freeze(process)
        _pause(system, SESSION_S + 2, SESSION_S + 5)
        others = sum(other.sum(f'bundlehook_partitions_owned{{role="{process.role}"') for other in system.of(process.role) if other is not process)
        if others >= system.plan.partitions:
            system.hit(f"{process.role} frozen while another took over")
        system.thaw(process)
        if process.role == "deliver":
            system.fault("freeze of deliver", since, time.time() + 2, IN_FLIGHT)
        _pause(system, 3, 8)


# -- 4. Redis ----------------------------------------------------------------------------------------------------------


def redis_kill(system: System) -> None:
    """Kills Redis; it comes back empty, or with what it had written to the disk."""
    _pause(system, 4, 6)
    while system.loading:
        _note_load(system)
        since = time.time()
        system.rig.kill_redis()
        _pause(system, 0, 4)
        system.rig.start_redis(aof=system.plan.aof, fresh=not system.plan.aof)
        system.hit("Redis killed")
        system.fault("Redis lost", since, time.time() + 2, 2 * IN_FLIGHT, forgets=True)
        _pause(system, 3, 9)


def redis_flush(system: System) -> None:
    """Empties Redis at any time, and just when boundaries close."""
    _pause(system, 4, 6)
    while system.loading:
        if system.random.random() < 0.6:
            closing = system.plan.hour - (time.time() - system.plan.grace) % system.plan.hour
            system.pass_time(closing + system.random.uniform(0, 0.4))
            system.hit("emptied around a boundary")
        _note_load(system)
        since = time.time()
        _ask(system, "FLUSHALL")
        system.hit("Redis emptied")
        system.fault("Redis emptied", since, time.time() + 2, 2 * IN_FLIGHT, forgets=True)
        _pause(system, 2, 7)


def redis_refuses(system: System) -> None:
    """Redis answers nothing for a while, only reads, or says that it is full."""
    _pause(system, 4, 6)
    troubles = system.each_in_turn(["pause", "readonly", "full"])
    while system.loading:
        _note_load(system)
        since = time.time()
        trouble = next(troubles)
        seconds = system.random.uniform(1, 8)
        if trouble == "pause":
            _ask(system, "CLIENT", "PAUSE", str(int(seconds * 1000)), "ALL")
            system.pass_time(seconds)
        elif trouble == "readonly":
            _ask(system, "REPLICAOF", "127.0.0.1", "1")
            system.pass_time(seconds)
            _ask(system, "REPLICAOF", "NO", "ONE")
        else:
            _ask(system, "CONFIG", "SET", "maxmemory", "1")
            system.pass_time(seconds)
            _ask(system, "CONFIG", "SET", "maxmemory", "0")
        system.hit(f"Redis: {trouble}")
        # A health that went by unrecorded is one request in flight at most; none is lost with the connection.
        system.fault(f"Redis: {trouble}", since, time.time() + 2, 0)
        _pause(system, 3, 8)


def _ask(system: System, *words: str) -> None:
    answer = system.rig.redis(*words)
    if not answer.startswith("+"):
        raise Broken(f"Redis answers `{answer}` to {words}")


# -- 5. Kafka ----------------------------------------------------------------------------------------------------------


def kafka_kill(system: System) -> None:
    """Kills the broker and starts it again on what is on its disk; freezes it in between."""
    _pause(system, 5, 8)
    ways = system.each_in_turn(["kill", "freeze"])
    while system.loading:
        _note_load(system)
        since = time.time()
        if next(ways) == "kill":
            system.rig.kill_kafka()
            _pause(system, 0, 10)
            system.rig.restart_kafka()
            system.hit("Kafka killed")
        else:
            system.rig.pause_kafka()
            _pause(system, 2, 8)
            system.rig.resume_kafka()
            system.hit("Kafka frozen")
        system.fault("Kafka gone", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT)
        _pause(system, 8, 15)


# -- 6. rebalances -----------------------------------------------------------------------------------------------------


def rebalances(system: System) -> None:
    """A third process of each role comes and goes every two seconds."""
    _pause(system, 3, 5)
    third = {role: system.add(role) for role in ("aggregate", "deliver")}
    while system.loading:
        system.pass_time(2)
        for process in third.values():
            _note_load(system)
            if process.sum(f'bundlehook_partitions_owned{{role="{process.role}"'):
                system.hit(f"{process.role} left with partitions")
            system.terminate(process)
        system.pass_time(2)
        for process in third.values():
            system.start(process)


# -- 7. endpoints ------------------------------------------------------------------------------------------------------


def outages(system: System) -> None:
    """Endpoints answer with errors, not at all, or close the connection, for a while each."""
    healthy = system.receiver.behaviour
    paths = [f"/ws-{number}/{granularity}" for number in (1, 2) for granularity in ("none", "1h", "6h", "24h")]
    _pause(system, 3, 5)
    while system.loading:
        broken = set(system.random.sample(paths, system.random.randint(1, len(paths))))
        status, delay = system.random.choice([(500, 0.05), (503, 0.0), (0, 0.0), (200, 4.0), (302, 0.0), (404, 0.0)])
        since = time.time()
        if (status, delay) == (200, 4.0):
            system.hit("endpoints that hang")
        system.receiver.behaviour = lambda path: (status, delay) if path in broken else healthy(path)  # noqa: B023
        _pause(system, 1, 6)
        system.receiver.behaviour = healthy
        if status == 200:
            # The receiver says 200, but too late: each of these is sent again.
            system.fault("endpoints that hang", since, time.time() + 5, 10 * LANES * CEILING)
        tripped = system.sum("deliver", 'bundlehook_circuit_changes_total{state="tripped"}')
        system.hits["circuits that tripped"] = int(tripped)
        _note_load(system)
        _pause(system, 4, 10)
    system.until("a circuit to recover", 60, lambda: system.sum("deliver", 'bundlehook_circuit_changes_total{state="healthy"}') > 0)
    system.hit("circuits that recovered")


def dead_hour(system: System) -> None:
    """All endpoints of a workspace are dead for more than an hour of the product, while all processes are rolled."""
    healthy = system.receiver.behaviour
    _pause(system, 3, 5)
    system.receiver.behaviour = lambda path: (500, 0.0) if path.startswith("/ws-1/") else healthy(path)
    since = time.monotonic()
    while time.monotonic() < since + 1.5 * system.plan.hour or system.hits["stopped meanwhile"] < 2:
        process = system.random.choice(system.processes)
        system.terminate(process)
        system.hit("stopped meanwhile")
        system.start(process)
        _pause(system, 1, 2)
    if system.sum("deliver", "bundlehook_deliveries_parked"):
        system.hit("with deliveries parked")
    system.receiver.behaviour = healthy
    system.wait_load()


# -- 8. settings -------------------------------------------------------------------------------------------------------


def settings(system: System) -> None:
    """Granularities change, webhooks are added, URLs edited, all during the load."""
    _pause(system, 2, 4)
    kinds = system.each_in_turn(["granularity", "granularity", "same again", "new"])
    while system.loading:
        webhooks = system.webhooks()
        webhook = dict(system.random.choice(webhooks))
        kind = next(kinds)
        if kind == "granularity":
            webhook["granularity"] = system.random.choice(["none", "1h", "6h", "24h"])
        elif kind == "new":
            webhook["webhook_id"] += f"-{len(webhooks)}"
            webhook["url"] += f"-{len(webhooks)}"
        system.publish_settings([webhook])
        system.hit(f"settings: {kind}")
        _pause(system, 0, 3)


# -- 9. network --------------------------------------------------------------------------------------------------------


def network(system: System) -> None:
    """The network to Kafka and to Redis is cut, reset or slow."""
    _pause(system, 4, 6)
    proxies = {"Kafka": system.rig.kafka_proxy, "Redis": system.rig.redis_proxy}
    troubles = system.each_in_turn([(name, kind) for name in proxies for kind in ("cut", "reset", "slow")])
    while system.loading:
        _note_load(system)
        name, kind = next(troubles)
        proxy = proxies[name]
        since, broken = time.time(), proxy.broken
        if kind == "cut":
            proxy.cut()
            _pause(system, 1, 10)
            proxy.mend()
        elif kind == "reset":
            proxy.reset()
            system.pass_time(0.5)
        else:
            proxy.slow(system.random.uniform(0.01, 0.2))
            _pause(system, 3, 8)
            proxy.slow(0)
        if kind == "slow" or proxy.broken > broken:
            system.hit(f"{name}: {kind}")
        system.fault(f"{name}: {kind}", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT if name == "Kafka" else 0)
        _pause(system, 4, 10)


# -- 10. all at once ---------------------------------------------------------------------------------------------------


def mixed(system: System) -> None:
    """Processes die while Redis forgets, the broker restarts, endpoints fail."""
    healthy = system.receiver.behaviour
    _pause(system, 4, 6)
    others = system.each_in_turn(["redis emptied", "redis killed", "kafka killed", "endpoints fail"])
    while system.loading:
        victims = system.random.sample(system.processes, system.random.choice([1, 2, 4]))
        other = next(others)
        since = time.time()
        for process in victims:
            _kill(system, process)
        system.pass_time(system.random.uniform(0, 1))
        if other == "redis emptied":
            _ask(system, "FLUSHALL")
        elif other == "redis killed":
            system.rig.kill_redis()
        elif other == "kafka killed":
            system.rig.kill_kafka()
        else:
            system.receiver.behaviour = lambda path: (503, 0.0)
        for process in victims:
            _pause(system, 0, 2)
            system.start(process)
        if other == "redis killed":
            system.rig.start_redis(aof=False)
        elif other == "kafka killed":
            system.rig.restart_kafka()
        system.receiver.behaviour = healthy
        system.hit(f"killed and {other}")
        system.fault(f"killed and {other}", since, time.time() + 2 * SESSION_S, 2 * IN_FLIGHT, forgets=other.startswith("redis"))
        _pause(system, 3, 9)


def _aof(seconds: float) -> Plan:
    return Plan(seconds=seconds, aof=True, settings=dict(SMALL_LANES))


ROWS = [
    Row("sigterm", "SIGTERM under load, rolling restart of all processes", sigterm,
        ("stopped by SIGTERM", "with requests in flight", "with deliveries parked", "with windows open"), _sigterm_plan, orderly=True),
    Row("kill", "kill -9 at random times", kill,
        ("aggregate killed", "deliver killed", "deliver killed with requests in flight", "with windows open")),
    Row("kill-parked", "kill -9 at random times with deliveries parked", kill,
        ("aggregate killed", "deliver killed with requests in flight", "with deliveries parked"), _sigterm_plan),
    Row("sigstop", "SIGSTOP past the session timeout, then CONT", sigstop,
        ("aggregate frozen while another took over", "deliver frozen while another took over")),
    Row("redis-kill", "kill -9 of Redis, which keeps nothing", redis_kill, ("Redis killed", "with windows open")),
    Row("redis-kill-aof", "kill -9 of Redis, which loses its last second", redis_kill, ("Redis killed", "with windows open"), _aof),
    Row("redis-flush", "FLUSHALL, also while a boundary closes", redis_flush, ("Redis emptied", "emptied around a boundary")),
    Row("redis-refuses", "Redis pauses, is read-only, is full", redis_refuses, ("Redis: pause", "Redis: readonly", "Redis: full")),
    Row("kafka", "kill -9 and freezes of Kafka", kafka_kill, ("Kafka killed", "Kafka frozen")),
    Row("rebalances", "a process of each role joins and leaves every 2 s", rebalances,
        ("aggregate left with partitions", "deliver left with partitions"), orderly=True),
    Row("outages", "endpoints fail and recover", outages, ("circuits that tripped", "circuits that recovered", "with deliveries parked"),
        orderly=True),
    Row("dead-hour", "endpoints dead for an hour, rolling restarts meanwhile", dead_hour, ("with deliveries parked", "stopped meanwhile"),
        lambda seconds: Plan(seconds=seconds, hour=6, settings={**SMALL_LANES, "RETRY_SCHEDULE": "1s,2s"}), orderly=True),
    Row("settings", "settings edited during the load", settings, ("settings: granularity", "settings: new"), orderly=True),
    Row("mixed", "kill -9 of processes while Redis, Kafka or endpoints fail", mixed,
        ("killed and redis emptied", "killed and redis killed", "killed and kafka killed", "killed and endpoints fail"),
        lambda seconds: Plan(seconds=max(seconds, 75), settings=dict(SMALL_LANES))),
    Row("network", "network to Kafka and Redis cut, reset, slow", network, ("Kafka: cut", "Redis: cut"),
        # Six troubles, each of which takes some time to come to its end.
        lambda seconds: Plan(seconds=max(seconds, 110), far=True, settings=dict(SMALL_LANES))),
]
