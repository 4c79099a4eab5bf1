"""Many messages: with nothing that breaks, and with random kills and losses of Redis as often as their number asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rows.redis import ask
from rows.row import LANES, SMALL_LANES, Row, kill_now, note_load, pause
from system import MOST_ATTEMPTS, Plan, Process, System

WIDE_LANES = {"LANE_REQUESTS": "8", "LANE_REQUESTS_CEILING": "16", "REQUEST_TIMEOUT": "10s"}
UNRECORDED = 2 * LANES * MOST_ATTEMPTS
"""What both processes have sent at most when they die without Redis: all is answered, but nothing recorded until it is back."""


def calm(system: System) -> None:
    """Nothing breaks."""
    while system.loading:
        pause(system, 1, 2)
        note_load(system)


def random_faults(a_kill_each: int, a_loss_each: int) -> Callable[[System], None]:
    """Kills any process and empties or kills Redis, at random moments; how often follows from the number of messages."""
    return lambda system: _break(system, math.ceil(system.events / a_kill_each), math.ceil(system.events / a_loss_each))


def _break(system: System, kills: int, losses: int) -> None:
    moments = ["kill"] * kills + ["loss"] * losses
    system.random.shuffle(moments)
    at = sorted(system.random.uniform(2, system.plan.seconds) for _ in moments)
    ways = system.each_in_turn(["emptied", "killed"])
    down: dict[str, float] = {}
    for kind, moment in zip(moments, at):
        _wait(system, down, system.began + moment)
        if kind == "kill":
            _kill_one(system, down)
        else:
            _lose_redis(system, down, next(ways))
    _wait(system, down, max(down.values(), default=0))


def _wait(system: System, down: dict[str, float], until: float) -> None:
    """Waits until a time; what is down comes back at its own."""
    while True:
        for process in system.processes:
            if down.get(process.name, math.inf) <= time.time():
                del down[process.name]
                system.start(process)
        left = until - time.time()
        if left <= 0:
            return
        system.pass_time(min(0.1, left))


def _kill_one(system: System, down: dict[str, float]) -> None:
    """Kills a process that runs; it comes back at once, or after another one took over."""
    while not (running := [process for process in system.processes if process.runs]):
        _wait(system, down, min(down.values()))
    process: Process = system.random.choice(running)
    kill_now(system, process)
    system.hit("kills")
    if down:
        system.hit("with another process down")
    down[process.name] = time.time() + system.random.uniform(0, system.random.choice([0.5, 2 * system.plan.session]))


def _lose_redis(system: System, down: dict[str, float], way: str) -> None:
    note_load(system)
    since = time.time()
    if way == "emptied":
        ask(system, "FLUSHALL")
    else:
        system.rig.kill_redis()
        _wait(system, down, time.time() + system.random.uniform(0, 4))
        system.rig.start_redis(fresh=True)
    system.hit(f"Redis {way}")
    system.hit("losses of Redis")
    system.fault(f"Redis {way}", since, time.time() + 2, UNRECORDED, forgets=True)


def _quiet(seconds: float) -> Plan:
    return Plan(seconds=seconds, session=30, settings=dict(SMALL_LANES))


def _fast(seconds: float) -> Plan:
    return Plan(seconds=seconds, rate=1_000, chats=600, hour=1.0, session=6, delay=(0.0, 0.01), settings=dict(WIDE_LANES))


def _short(seconds: float) -> Plan:
    return Plan(seconds=40, rate=150, chats=100, hour=1.0, session=10, settings={**SMALL_LANES, "REQUEST_TIMEOUT": "10s"})


ROWS = [
    Row("calm", "nothing breaks, and each counter is right", calm, ("with windows open",), _quiet, orderly=True, counted=True),
    Row("proof", "many messages; a kill -9 for each 5,000, a loss of Redis for each 50,000", random_faults(5_000, 50_000),
        ("kills", "losses of Redis", "with windows open", "deliver killed with requests in flight", "with another process down"), _fast),
    Row("short", "a few kills and losses of Redis in 40 s; part of `make test`", random_faults(1_000, 3_000), ("kills", "losses of Redis"), _short),
]
