"""Settings change under load."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ledger import Ledger
from console import Console
from rows.row import SMALL_LANES, Row, kill_now, pause
from system import Plan, System

GRANULARITIES = ["none", "1h", "6h", "24h"]
OFF_SECONDS = 8
"""So long a webhook is off at least: what counts 5 seconds after it was made has counted."""
ON_SECONDS = 15
"""So long a webhook is left alone once it is on."""


def settings(system: System) -> None:
    """Granularities change, webhooks are added, URLs edited, all during the load."""
    pause(system, 2, 4)
    kinds = system.each_in_turn(["granularity", "granularity", "same again", "new"])
    while system.loading:
        webhooks = system.webhooks()
        webhook = dict(system.random.choice(webhooks))
        kind = next(kinds)
        if kind == "granularity":
            webhook["granularity"] = system.random.choice(GRANULARITIES)
        elif kind == "new":
            webhook["webhook_id"] += f"-{len(webhooks)}"
            webhook["url"] += f"-{len(webhooks)}"
        system.publish_settings([webhook])
        system.hit(f"settings: {kind}")
        pause(system, 0, 3)


class Owner:
    """Changes webhooks by the API, and remembers what was accepted."""

    def __init__(self, system: System) -> None:
        self._system, self._console = system, Console(system)
        self._rested = {webhook["webhook_id"]: 0.0 for webhook in system.webhooks()}
        """From when on each may be touched again."""
        self._off: dict[str, float] = {}
        self._deleted: dict[str, float] = {}
        self.edits: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        """Field and value of each edit that was accepted, by webhook."""
        self._number = 0

    def act(self) -> None:
        """Switches on or makes anew what was off for long enough; changes something else."""
        now = time.monotonic()
        for webhook_id in [name for name, since in self._off.items() if now > since + OFF_SECONDS]:
            if self._command(webhook_id, "enable"):
                del self._off[webhook_id]
                self._rest(webhook_id, ON_SECONDS, "switched on")
        if gone := [name for name, since in self._deleted.items() if now > since + OFF_SECONDS]:
            webhooks = {webhook["webhook_id"]: webhook for webhook in self._system.webhooks()}
            self._system.publish_settings([webhooks[name] for name in gone])
            for name in gone:
                del self._deleted[name]
                self._rest(name, ON_SECONDS, "made anew")
        rested = [name for name, at in self._rested.items() if at < now and name not in self._off and name not in self._deleted]
        if rested:
            self._change(self._system.random.choice(rested))

    def restore(self) -> None:
        """Everything is on in the end."""
        while self._off or self._deleted:
            self._rested = dict.fromkeys(self._rested, float("inf"))
            self.act()
            self._system.pass_time(0.5)

    def _rest(self, webhook_id: str, seconds: float, moment: str) -> None:
        self._rested[webhook_id] = time.monotonic() + seconds
        self._system.hit(moment)

    def _change(self, webhook_id: str) -> None:
        system = self._system
        kind = system.random.choice(["off", "off", "delete", "label", "granularity", "both at once", "both at once"])
        if kind in ("label", "granularity"):
            if self._edit(webhook_id, kind) == 200:
                self._rest(webhook_id, 0, "edited")
        elif kind == "off":
            if self._command(webhook_id, "disable"):
                self._off[webhook_id] = time.monotonic()
                system.hit("switched off")
        elif kind == "delete":
            if self._console.ask("DELETE", f"/webhooks/{webhook_id}")[0] in (200, 204):
                self.edits[webhook_id].append(("deleted", True))
                self._deleted[webhook_id] = time.monotonic()
                system.hit("deleted")
        else:
            with ThreadPoolExecutor() as threads:
                edit, off = threads.submit(self._edit, webhook_id, "label"), threads.submit(self._command, webhook_id, "disable")
                edited, switched = edit.result(), off.result()
            system.hit("an edit and a disabling at once")
            system.hit("both were made" if edited == 200 and switched else "one of both was refused")
            if switched:
                self._off[webhook_id] = time.monotonic()
                system.hit("switched off")

    def _edit(self, webhook_id: str, field: str) -> int:
        self._number += 1
        value = f"label {self._number}" if field == "label" else self._system.random.choice(GRANULARITIES)
        version = self._console.version(webhook_id)
        if version is None:
            return 0
        status, _ = self._console.ask("PATCH", f"/webhooks/{webhook_id}", {"version": version, field: value})
        if status == 200:
            self.edits[webhook_id].append((field, value))
        elif status not in (409, 503):
            raise AssertionError(f"an edit was answered with {status}")
        return status

    def _command(self, webhook_id: str, name: str) -> bool:
        done = self._console.ask("POST", f"/webhooks/{webhook_id}/{name}", {})[0] == 200
        if done:
            self.edits[webhook_id].append(("enabled", name == "enable"))
        return done


def toggles(system: System) -> None:
    """Webhooks are switched off and on, deleted, made anew and edited, also twice at once, while processes die."""
    owner = Owner(system)
    system.owner = owner
    pause(system, 2, 4)
    for step in itertools.count():
        if not system.loading:
            break
        owner.act()
        if step % 8 == 5:
            process = system.random.choice(system.processes)
            kill_now(system, process)
            pause(system, 0, 3)
            system.start(process)
            system.hit("killed meanwhile")
        pause(system, 0, 1.5)
    owner.restore()


def check(system: System, ledger: Ledger) -> list[str]:
    """Each edit that was accepted stands in the log once, and stays until the next of its kind."""
    problems = []
    of_webhook: dict[str, list[dict[str, Any] | None]] = defaultdict(list)
    for record in sorted(ledger.settings, key=lambda record: (record["partition"], record["offset"])):
        of_webhook[record["key"]].append(None if record["value"] is None else json.loads(record["value"]))
    for webhook_id, versions in of_webhook.items():
        made = []
        for former, later in zip(versions, versions[1:]):
            if later is None:
                made.append(("deleted", True))
            elif former is not None:
                fields = ("label", "granularity", "enabled", "url", "workspace_id")
                made += [(name, later.get(name)) for name in fields if former.get(name) != later.get(name)]
        # An edit to what it was already changes nothing.
        accepted, state = [], dict(versions[0] or {})
        for field, value in system.owner.edits[webhook_id]:
            if field == "deleted":
                state = next(webhook for webhook in system.webhooks() if webhook["webhook_id"] == webhook_id)
                state = dict(state)
            elif state.get(field) == value:
                continue
            else:
                state[field] = value
            accepted.append((field, value))
        if sorted(map(str, made)) != sorted(map(str, accepted)):
            problems.append(f"edits of {webhook_id} that were accepted: {accepted}; that are in the log: {made}")
    return problems


def _plan(seconds: float) -> Plan:
    return Plan(seconds=max(seconds, 120), rate=120, workspaces=4, settings=dict(SMALL_LANES))


ROWS = [
    Row("settings", "settings edited during the load", settings, ("settings: granularity", "settings: new"), orderly=True),
    Row("toggles", "webhooks switched off and on, deleted, made anew and edited, while processes die", toggles,
        ("switched off", "switched on", "deleted", "made anew", "edited", "an edit and a disabling at once", "killed meanwhile",
         "dropped by their owner"), _plan, check=check),
]
