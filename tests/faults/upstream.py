"""A producer of somebody else: writes in transactions, what nobody can read, and timestamps of its own."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from rig import ROOT, Broken, end
from system import System

PROGRAM = Path(__file__).resolve().parent / "Upstream.java"


class Upstream:
    """Runs `Upstream.java`, which publishes to `message-events`."""

    def __init__(self, system: System, transactional_id: str | None = None) -> None:
        self._system = system
        topic = f"{system.prefix}message-events"
        self._sent: list[bytes] = []
        with open(system.folder / "upstream.log", "ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", system.rig.kafka_classpath,
                 f"-Dlog4j2.configurationFile={ROOT / 'deploy/local/log4j2.properties'}", PROGRAM, system.rig.brokers, topic,
                 *([f"{system.prefix}{transactional_id}"] if transactional_id else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )
        self._expect("ready")

    def send(self, key: str | None, value: bytes | None, timestamp: int | None = None) -> None:
        """Hands a record over, without waiting for it; `timestamp` in milliseconds, if it is not to be the time of sending."""
        encoded = [base64.b64encode(part).decode() if part is not None else "-" for part in (key.encode() if key is not None else None, value)]
        self._write(f"send {'-' if timestamp is None else timestamp} {' '.join(encoded)}")
        self._sent.append(value or b"")

    def begin(self) -> None:
        """Begins a transaction."""
        self._say("begin")

    def commit(self) -> None:
        """Ends a transaction: what was sent in it is to be delivered."""
        self._say("commit")
        self._acknowledged()

    def abort(self) -> None:
        """Ends a transaction: nobody is to see what was sent in it. Returns when that is on the broker."""
        self._say("abort")
        self._sent.clear()

    def flush(self) -> None:
        """Waits until everything is acknowledged."""
        self._say("flush")
        self._acknowledged()

    def close(self) -> None:
        """Ends the program."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            end(self._process)

    def _acknowledged(self) -> None:
        """What is acknowledged is asked for at the end."""
        self._system.note_published(self._sent)
        self._sent.clear()

    def _say(self, word: str) -> None:
        self._write(word)
        self._expect(f"done {word}")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _expect(self, answer: str) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.decode().strip() == answer:
                return
        raise Broken(f"the upstream producer ended before `{answer}`; see upstream.log")


def chat_of(event: bytes) -> str:
    """The key that an event is published under."""
    return str(json.loads(event)["chat"]["chat_id"])
