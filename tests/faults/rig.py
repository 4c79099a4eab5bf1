"""Apache Kafka and Redis of a run's own, on free ports of loopback, with proxies in front; programs as processes."""

from __future__ import annotations

import codecs
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
# A console consumer to which nothing comes for so long has read everything, where the last offsets hold no records.
CONSOLE_SECONDS = 40


class Broken(Exception):
    """The run can't go on; says why."""


def _load_services() -> Any:
    loader = importlib.machinery.SourceFileLoader("services", str(ROOT / "deploy/local/services"))
    spec = importlib.util.spec_from_loader("services", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def spawn(command: list[Any], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process that the kernel kills when this program ends; output is appended to the log."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options
        )


def wait(what: str, seconds: float, condition: Callable[[], bool], pause: float = 0.1) -> None:
    """Waits for a condition. Raises Broken if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


def end(process: subprocess.Popen[bytes] | None) -> None:
    """Kills a process, if it still runs, and waits until it is gone."""
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


class Rig:
    """Both services. What they hold is gone afterwards; their logs stay in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._services = _load_services()
        self._services.FOLDER, self._services.DATA = folder, folder / "data"
        self._services.spawn = spawn
        (folder / "data").mkdir(parents=True)
        held = [self._services.held_port() for _ in range(4)]
        self._kafka_port, controller, self._far_port, self._redis_port = (port for port, _ in held)
        self._holds = [hold for _, hold in held]
        self._kafka: subprocess.Popen[bytes] | None = None
        self._redis: subprocess.Popen[bytes] | None = None
        self._replica: subprocess.Popen[bytes] | None = None
        self._replica_port: int | None = None
        self.redis_proxy, self.kafka_proxy = Proxy(self._redis_port), Proxy(self._far_port)
        self._services.kafka_settings = self._kafka_settings
        try:
            self._start_kafka(controller)
            self.wait_kafka()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends both."""
        end(self._redis)
        end(self._replica)
        end(self._kafka)
        self.redis_proxy.close()
        self.kafka_proxy.close()
        for hold in self._holds:
            hold.close()

    # -- Kafka --

    def _start_kafka(self, controller: int) -> None:
        self._kafka = self._services.start_kafka(self._kafka_port, controller)

    def _kafka_settings(self, port: int, controller_port: int, log_dir: Path) -> str:
        """Two listeners for clients: a direct one, and one that is reached through the proxy only."""
        direct, far, controller = (f"127.0.0.1:{number}" for number in (port, self._far_port, controller_port))
        return f"""
node.id=1
listeners=PLAINTEXT://{direct},FAR://{far},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{direct},FAR://127.0.0.1:{self.kafka_proxy.port},CONTROLLER://{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=1@{controller}
log.dirs={log_dir}
"""

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self._kafka_port}"

    @property
    def far_brokers(self) -> str:
        """Through the proxy."""
        return f"127.0.0.1:{self.kafka_proxy.port}"

    def wait_kafka(self) -> None:
        wait("Apache Kafka", START_SECONDS, lambda: bool(self._services.kafka_answers(self._kafka_port)))

    def kill_kafka(self) -> None:
        end(self._kafka)

    def restart_kafka(self) -> None:
        """Starts the killed broker on what is on the disk, and waits until it answers."""
        self._kafka = self._services.run_kafka(self.folder / "data/kafka/kafka.properties")
        self.wait_kafka()

    def pause_kafka(self) -> None:
        assert self._kafka is not None
        self._kafka.send_signal(signal.SIGSTOP)

    def resume_kafka(self) -> None:
        assert self._kafka is not None
        self._kafka.send_signal(signal.SIGCONT)

    def admin(self, program: str, *arguments: str) -> str:
        """Output of one of Kafka's own tools. Raises Broken if it fails."""
        command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", self.kafka_classpath, program, "--bootstrap-server", self.brokers]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Broken(f"{program} failed: {done.stdout[-1000:]} {done.stderr[-1000:]}")
        return done.stdout

    @property
    def kafka_classpath(self) -> str:
        """Where Java finds Kafka's classes."""
        return str(self._services.kafka_classpath())

    def _console(self, *arguments: str) -> list[str]:
        return [
            "java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", self._services.kafka_classpath(),
            f"-Dlog4j2.configurationFile={ROOT / 'deploy/local/log4j2.properties'}",
            "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", self.brokers, "--from-beginning",
            "--isolation-level", "read_committed", "--timeout-ms", f"{1000 * CONSOLE_SECONDS}", *arguments,
        ]

    def records(self, topic: str) -> Iterator[dict[str, Any]]:
        """All records of a topic: partition, offset, timestamp, headers, key, value (text; None for a tombstone)."""
        properties = [f"print.{what}=true" for what in ("timestamp", "partition", "offset", "headers", "key", "value")]
        options = [word for setting in [*properties, "null.literal=\x01", "headers.separator=\x02"] for word in ("--formatter-property", setting)]
        left = self._ends(topic)
        unseen = set(left)
        if not left:
            return
        with subprocess.Popen(self._console("--topic", topic, *options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reading:
            for line in reading.stdout or ():
                # Kafka's log goes to standard output, too.
                if not line.startswith((b"LogAppendTime:", b"CreateTime:")):
                    continue
                record = _record(line)
                unseen.discard(record["partition"])
                yield record
                if record["offset"] + 1 >= left.get(record["partition"], sys.maxsize):
                    del left[record["partition"]]
                    if not left:
                        reading.kill()
                        return
        if unseen:
            raise Broken(f"partitions {sorted(unseen)} of {topic} could not be read in time")

    def _ends(self, topic: str) -> dict[int, int]:
        """The offset of the next record of each partition that has had one."""
        lines = self.admin("org.apache.kafka.tools.GetOffsetShell", "--topic", re.escape(topic)).splitlines()
        ends = {int(fields[1]): int(fields[2]) for fields in (line.rsplit(":", 2) for line in lines) if fields[0] == topic}
        return {partition: end for partition, end in ends.items() if end > 0}

    def commits(self) -> Iterator[dict[str, Any]]:
        """All offsets that were committed before now. Roles that run go on committing, so the topic never falls silent."""
        began = 1000 * time.time()
        formatter = "org.apache.kafka.tools.consumer.OffsetsMessageFormatter"
        command = self._console("--topic", "__consumer_offsets", "--formatter", formatter)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reading:
            assert reading.stdout is not None
            last_old = time.monotonic()
            for commit in _objects(reading.stdout):
                if ((commit.get("value") or {}).get("data") or {}).get("commitTimestamp", 0) < began:
                    last_old = time.monotonic()
                    yield commit
                elif time.monotonic() - last_old > CONSOLE_SECONDS:
                    reading.terminate()
                    return

    # -- Redis --

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._redis_port}/"

    @property
    def far_redis_url(self) -> str:
        """Through the proxy."""
        return f"redis://127.0.0.1:{self.redis_proxy.port}/"

    def start_redis(self, aof: bool = False, fresh: bool = True) -> None:
        """Starts Redis, with or without the data of the last one."""
        end(self._redis)
        folder = self.folder / "data/redis"
        folder.mkdir(exist_ok=True)
        if fresh:
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
        durable = ["--appendonly", "yes", "--appendfsync", "everysec"] if aof else ["--appendonly", "no"]
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self._redis_port, "--dir", folder, "--save", "", *durable]
        self._redis = spawn(command, self.folder / "redis.log")
        wait("Redis", 30, lambda: bool(self._services.redis_answers(self._redis_port)))

    def kill_redis(self) -> None:
        end(self._redis)

    def follow_redis(self) -> None:
        """Starts a replica, and waits until it has everything."""
        if self._replica_port is None:
            self._replica_port, hold = self._services.held_port()
            self._holds.append(hold)
        end(self._replica)
        folder = self.folder / f"data/redis-{self._replica_port}"
        folder.mkdir(exist_ok=True)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self._replica_port, "--dir", folder, "--save", "", "--appendonly", "no",
                   "--replicaof", "127.0.0.1", self._redis_port]
        self._replica = spawn(command, self.folder / "redis.log")
        up = b"master_link_status:up"
        wait("the replica to follow", 30, lambda: up in (self._ask_redis(self._replica_port, "INFO", "replication") or b""))

    def cut_replication(self) -> None:
        """The replica hears nothing more of the master's writes."""
        if self._ask_redis(self._replica_port, "REPLICAOF", "NO", "ONE") != b"+OK\r\n":
            raise Broken("the replica does not answer")

    def fail_over(self) -> None:
        """The master dies, and clients that go through the proxy come to the replica."""
        assert self._replica_port is not None
        end(self._redis)
        self._redis, self._replica = self._replica, None
        self._redis_port, self._replica_port = self._replica_port, self._redis_port
        self.redis_proxy.lead_to(self._redis_port)

    def redis_value(self, *words: str) -> str | None:
        """A text that Redis answers with; None if there is none."""
        answer = self._ask_redis(self._redis_port, *words) or b"$-1"
        return None if answer.startswith(b"$-1") else answer.split(b"\r\n", 1)[1].removesuffix(b"\r\n").decode()

    def _ask_redis(self, port: int | None, *words: str) -> bytes | None:
        whole = lambda answer: answer.endswith(b"\r\n") and (
            not answer.startswith(b"$") or answer.startswith(b"$-1") or len(answer.split(b"\r\n", 1)[1]) == int(answer[1:].split(b"\r\n")[0]) + 2
        )
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        answer: bytes | None = self._services.ask(port, request, whole)
        return answer

    def redis(self, *words: str) -> str:
        """The first line of Redis's answer to a command."""
        with socket.create_connection(("127.0.0.1", self._redis_port), timeout=10) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words))
            return connection.makefile("rb").readline().decode().strip()


def _objects(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """JSON objects with a `key` from a stream, as they come; the console consumer writes them with nothing in between."""
    decoder, decode, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape").decode, ""
    while chunk := os.read(stream.fileno(), 65_536):
        text += decode(chunk)
        while (start := text.find('{"key"')) >= 0:
            try:
                found, end_of_it = decoder.raw_decode(text, start)
            except ValueError:
                # The rest of it is still to come.
                break
            text = text[end_of_it:]
            yield found


def _record(line: bytes) -> dict[str, Any]:
    stamp, partition, offset, headers, key, value = line.decode("utf-8", "surrogateescape").removesuffix("\n").split("\t", 5)
    return {
        "partition": int(partition.partition(":")[2]), "offset": int(offset.partition(":")[2]),
        "timestamp": int(stamp.partition(":")[2]), "headers": _headers(headers),
        "key": None if key == "\x01" else key, "value": None if value == "\x01" else value,
    }


def _headers(text: str) -> dict[str, str]:
    if text == "NO_HEADERS":
        return {}
    text = text.removeprefix("Headers:")
    return dict(pair.partition(":")[::2] for pair in text.split("\x02"))


def environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment with these settings of Bundlehook, and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("BUNDLEHOOK_") and name != "RUST_LOG"}
    return own | {f"BUNDLEHOOK_{name}": value for name, value in settings.items()}
