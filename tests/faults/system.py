"""The product in a run: its processes, its webhooks, its load."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from account import ORACLE, UNRECORDED_S, Fault
from receiver import Receiver, answering
from rig import ROOT, START_SECONDS, Broken, Rig, end, environment, spawn, wait
from store import Store

SESSION_S = 3.0
"""After so long without a sign of life a member is thrown out of its group."""
MOST_ATTEMPTS = 128
"""So many attempts of a webhook are at most between their request and their record, in one process."""
T = TypeVar("T")


@dataclass
class Plan:
    """What a row needs; times in seconds."""

    seconds: float = 60
    rate: int = 150
    chats: int = 300
    workspaces: int = 2
    partitions: int = 4
    hour: float = 2.0
    grace: float = 0.5
    session: float = SESSION_S
    """After so long without a sign of life a member is thrown out of its group; on a busy machine one may come late."""
    aof: bool = False
    far: bool = False
    """Kafka and Redis are reached through proxies."""
    delay: tuple[float, float] = (0.0, 0.05)
    """The receiver answers after so long."""
    settings: dict[str, str] = field(default_factory=dict)
    granularities: str = "none,1h,6h,24h"
    """A webhook for each in each workspace."""
    on_its_way: float = 30
    """A POST may still be on its way so long after it was due, if processes die meanwhile."""
    brokers: int = 1
    """3: a cluster of the row's own."""
    small_disk_mib: int = 0
    """The first of three brokers has a disk of so many MiB."""
    failpoints: bool = False
    """The program is one that was built with the feature `failpoints`."""


class Process:
    """A process of the product with a name that stays over its restarts."""

    def __init__(self, role: str, number: int, port: int) -> None:
        self.role, self.number, self.port = role, number, port
        self.name = f"{role}-{number}"
        self.child: subprocess.Popen[bytes] | None = None
        self.wanted = True
        self.starts = 0
        self.extra: dict[str, str] = {}
        """Variables that only this process gets when it is started next."""

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def sum(self, series: str) -> float:
        """The sum of all series that begin so; 0 if the process does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=3) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=3) as page:
                return bool(page.status == 200)
        except OSError:
            return False


class System:
    """Two processes of each role, a receiver, webhooks of several granularities."""

    def __init__(self, rig: Rig, binary: Path, folder: Path, prefix: str, plan: Plan, seed: str, log: str) -> None:
        self.rig, self.binary, self.folder, self.prefix, self.plan = rig, binary, folder, prefix, plan
        self.random = random.Random(f"{seed} {prefix}")
        self._log = log
        self.seed = self.random.randrange(1 << 32)
        """For what other programs make at random."""
        folder.mkdir(parents=True)
        self.receiver = Receiver(Store(folder / "bodies"))
        self.hits: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self.ended: list[str] = []
        """What ended by itself."""
        self.beside: list[subprocess.Popen[bytes]] = []
        """Programs that a row has started beside the roles."""
        self.owner: Any = None
        """Who changes settings in a row that is about that."""
        self._restart_at: dict[str, float] = {}
        self._webhooks: dict[str, dict[str, Any]] = {}
        self._load: subprocess.Popen[bytes] | None = None
        self.began = self.load_seconds = 0.0
        self._ports: list[socket.socket] = []
        self.processes = [self._process(role, number) for role in ("aggregate", "deliver") for number in (1, 2)]

    def _process(self, role: str, number: int) -> Process:
        return Process(role, number, self.hold_port())

    def hold_port(self) -> int:
        """A free port of loopback that nobody else is given."""
        hold = socket.socket()
        hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hold.bind(("127.0.0.1", 0))
        self._ports.append(hold)
        return int(hold.getsockname()[1])

    def of(self, role: str) -> list[Process]:
        """The processes of a role."""
        return [process for process in self.processes if process.role == role]

    def add(self, role: str) -> Process:
        """One more process of a role."""
        process = self._process(role, len(self.of(role)) + 1)
        self.processes.append(process)
        self.start(process)
        return process

    # -- programs --

    def environment(self) -> dict[str, str]:
        """Settings that all roles share."""
        plan = self.plan
        return environment({
            "KAFKA_BROKERS": self.rig.far_brokers if plan.far else self.rig.brokers,
            "REDIS_URL": self.rig.far_redis_url if plan.far else self.rig.redis_url,
            "TOPIC_PREFIX": self.prefix, "HOUR": f"{plan.hour * 1000:.0f}ms", "WINDOW_GRACE": f"{plan.grace * 1000:.0f}ms",
            "KAFKA_PROPERTIES": f"session.timeout.ms={plan.session * 1000:.0f},heartbeat.interval.ms=500",
            "ALLOW_ADDRESSES": "127.0.0.1/32", "REQUEST_TIMEOUT": "3s", "RETRY_SCHEDULE": "200ms,500ms,1s,1s,2s,2s,2s,2s,2s,2s",
            "LOG": self._log, **plan.settings,
        })

    def start(self, process: Process) -> None:
        """Starts a process."""
        env = self.environment() | {"BUNDLEHOOK_HTTP_ADDR": f"127.0.0.1:{process.port}"} | process.extra
        process.child = spawn([self.binary, process.role], self.folder / f"{process.name}.log", env=env)
        process.wanted = True
        process.starts += 1

    def tool(self, *arguments: str) -> None:
        """Runs a tool to its end, with direct access to Kafka. Raises Broken if it fails."""
        env = environment({"KAFKA_BROKERS": self.rig.brokers, "TOPIC_PREFIX": self.prefix})
        done = subprocess.run([self.binary, *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Broken(f"`bundlehook {' '.join(arguments)}` failed: {done.stderr[-2000:]}")

    def oracle(self, program: str, *arguments: str) -> None:
        """Runs one of the oracle's programs in the run's folder."""
        done = subprocess.run([sys.executable, ORACLE / program, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Broken(f"{program} failed: {done.stderr[-2000:]}")

    # -- beginning and end --

    def up(self) -> None:
        """Starts it all and waits until the settings count."""
        self.rig.start_redis(aof=self.plan.aof)
        self.tool("topics", "--partitions", str(self.plan.partitions))
        self.receiver.behaviour = answering(200, *self.plan.delay, seed=self.seed)
        self.oracle("settings.py", "--base-url", self.receiver.url, "--workspaces", str(self.plan.workspaces),
                    "--granularities", self.plan.granularities, "--out", "settings.jsonl")
        for process in self.processes:
            self.start(process)
        self.publish_settings([json.loads(line) for line in (self.folder / "settings.jsonl").read_text().splitlines()])
        for process in self.processes:
            wait(f"{process.name} to be ready", START_SECONDS, process.is_ready)

    def down(self) -> None:
        """Ends all processes by SIGTERM, then whatever is left."""
        for process in self.processes:
            process.wanted = False
            if process.runs and process.child is not None:
                process.child.send_signal(signal.SIGCONT)
                process.child.terminate()
        deadline = time.monotonic() + 30
        while any(process.runs for process in self.processes) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.close()

    def close(self) -> None:
        """Ends what still runs."""
        for process in self.processes:
            end(process.child)
        for program in self.beside:
            end(program)
        end(self._load)
        self.receiver.close()
        self.receiver.store.close()
        for hold in self._ports:
            hold.close()

    def load(self) -> None:
        """Begins to publish messages for as long as the plan says."""
        plan = self.plan
        self.oracle(
            "generate.py", "--seed", str(self.seed), "--events", str(self.events), "--chats", str(plan.chats), "--skew", "0.7",
            "--workspaces", str(plan.workspaces), "--max-ahead", str(int(plan.hour * 1000)),
            "--span", str(int(plan.seconds * 1000)), "--out", "events.jsonl",
        )
        # It waits for brokers that are gone, however long.
        properties = {"KAFKA_PROPERTIES": "message.timeout.ms=600000"}
        env = environment({"KAFKA_BROKERS": self.rig.brokers, "TOPIC_PREFIX": self.prefix} | properties)
        command = [self.binary, "produce", "--file", self.folder / "events.jsonl", "--rate", plan.rate]
        self._load = spawn(command, self.folder / "produce.log", env=env)
        self.began = time.time()

    @property
    def events(self) -> int:
        """How many messages are published."""
        return round(self.plan.rate * self.plan.seconds)

    @property
    def loading(self) -> bool:
        """Whether messages are still being published."""
        return self._load is not None and self._load.poll() is None

    def publish_events(self, lines: list[bytes]) -> None:
        """Publishes messages beside the load, as fast as the broker takes them."""
        file = self.folder / "more.jsonl"
        file.write_bytes(b"".join(line + b"\n" for line in lines))
        self.tool("produce", "--file", str(file))
        self.note_published(lines)

    def note_published(self, lines: list[bytes]) -> None:
        """Notes messages that were published beside the load and acknowledged. The file of the load is still being read."""
        with open(self.folder / "beside.jsonl", "ab") as file:
            file.writelines(line + b"\n" for line in lines)

    def published(self) -> Iterator[bytes]:
        """All messages that were published, each of which was acknowledged."""
        for name in ("events.jsonl", "beside.jsonl"):
            if (self.folder / name).exists():
                with open(self.folder / name, "rb") as file:
                    yield from (line.removesuffix(b"\n") for line in file)

    def pause_load(self) -> None:
        """Nothing is published for a while."""
        assert self._load is not None
        self._load.send_signal(signal.SIGSTOP)

    def resume_load(self) -> None:
        """Goes on publishing, if it was paused."""
        assert self._load is not None
        self._load.send_signal(signal.SIGCONT)

    def wait_load(self) -> None:
        """Waits until all messages are published and acknowledged."""
        wait("the load to end", 4 * self.plan.seconds + 120, lambda: self.pass_time(0.2) or not self.loading, pause=0)
        self.load_seconds = time.time() - self.began
        if self._load is None or self._load.returncode != 0:
            raise Broken("`produce` failed")

    # -- time passes --

    def pass_time(self, seconds: float) -> None:
        """Waits, and starts anew what ended by itself meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._supervise()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.2, left))

    def _supervise(self) -> None:
        for process in self.processes:
            if process.wanted and not process.runs and process.child is not None:
                now = time.monotonic()
                if process.name not in self._restart_at:
                    self.ended.append(f"{process.name} ended with {process.child.returncode}: {self.last_error(process)}")
                    self._restart_at[process.name] = now + 1
                elif now >= self._restart_at[process.name]:
                    del self._restart_at[process.name]
                    self.start(process)

    def last_error(self, process: Process) -> str:
        """The last thing a process complained about."""
        lines = (self.folder / f"{process.name}.log").read_text(errors="replace").splitlines()
        return next((re.sub(r"\x1b\[[0-9;]*m", "", line) for line in reversed(lines) if "ERROR" in line or "panicked" in line), "")

    def logged(self, role: str, text: str) -> int:
        """How many lines of a role's logs contain a text."""
        needle = text.encode()
        return sum(
            sum(needle in line for line in (self.folder / f"{process.name}.log").read_bytes().splitlines()) for process in self.of(role)
        )

    def sum(self, role: str, series: str) -> float:
        """The sum of series over the processes of a role."""
        return sum(process.sum(series) for process in self.of(role) if process.runs)

    # -- faults --

    def hit(self, moment: str, count: int = 1) -> None:
        """Notes that a moment was really hit."""
        self.hits[moment] += count

    def each_in_turn(self, kinds: Sequence[T]) -> Iterator[T]:
        """The kinds at random, each once before any comes again."""
        while True:
            yield from self.random.sample(kinds, len(kinds))

    def unrecorded(self) -> int:
        """How many requests one process may have sent and not recorded: those in flight, and those answered just now."""
        now = time.time()
        # None takes longer than its deadline, so none that came earlier was answered just now.
        recent = itertools.takewhile(lambda request: request.received_at > now - 10, reversed(self.receiver.received))
        answered = sum(request.ended_at is not None and request.ended_at > now - UNRECORDED_S for request in recent)
        return min(self.receiver.in_flight + answered, MOST_ATTEMPTS * len(self._webhooks))

    def fault(self, name: str, since: float, until: float, repeats: int, forgets: bool = False) -> None:
        """Notes what may explain repeats."""
        self.faults.append(Fault(name, since, until, repeats, forgets))
        self.counts[name] += 1

    def kill(self, process: Process) -> None:
        """Kills a process without warning; it is not started again before `start`."""
        process.wanted = False
        end(process.child)

    def freeze(self, process: Process) -> None:
        """Stops a process where it stands."""
        assert process.child is not None
        process.child.send_signal(signal.SIGSTOP)

    def thaw(self, process: Process) -> None:
        """Lets a frozen process go on."""
        assert process.child is not None
        process.child.send_signal(signal.SIGCONT)

    def terminate(self, process: Process, seconds: float = 30) -> float:
        """Stops a process by SIGTERM; answers how long that took. Raises Broken if it doesn't end with 0."""
        process.wanted = False
        assert process.child is not None
        began = time.monotonic()
        process.child.terminate()
        wait(f"{process.name} to end", seconds, lambda: self.pass_time(0.05) or process.child.poll() is not None, pause=0)  # type: ignore[union-attr]
        if process.child.returncode != 0:
            raise Broken(f"{process.name} ended with {process.child.returncode} on SIGTERM")
        return time.monotonic() - began

    def webhooks(self) -> list[dict[str, Any]]:
        """The settings of all webhooks, as last published."""
        return list(self._webhooks.values())

    def publish_settings(self, webhooks: list[dict[str, Any]]) -> None:
        """Publishes settings and waits until they count."""
        self._webhooks |= {webhook["webhook_id"]: webhook for webhook in webhooks}
        file = self.folder / "edit.jsonl"
        file.write_text("".join(json.dumps(webhook) + "\n" for webhook in webhooks))
        self.tool("produce", "--settings", str(file))

    def until(self, what: str, seconds: float, condition: Callable[[], bool]) -> None:
        """Waits for a condition while ended processes are started anew."""
        wait(what, seconds, lambda: self.pass_time(0.2) or condition(), pause=0)
