"""The history of webhooks' settings: what was in force when, and since which enabling."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from events import DeadLetter, Number, Object, Reader, parse_json

SETTLE_MS = 5_000
GRANULARITY_HOURS = {"none": 0, "1h": 1, "6h": 6, "12h": 12, "24h": 24}
_SECRET = re.compile(r"whsec_[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Settings:
    """What decides about a message; the rest of the settings only decides about its delivery."""

    workspace_id: str
    url: str
    enabled: bool
    granularity: str

    @property
    def path(self) -> str:
        """Path and query, as in the request line."""
        url = urlsplit(self.url)
        return (url.path or "/") + (f"?{url.query}" if url.query else "")


@dataclass(frozen=True)
class Version:
    """Settings as of one record; None after a tombstone.

    `life` changes with every disabling, deletion and change of workspace: what was collected in one life is not sent
    in another.
    """

    settings: Settings | None
    life: int


@dataclass(frozen=True)
class Wanting:
    """A webhook that wants a message."""

    webhook_id: str
    granularity: str
    url: str
    path: str
    life: int


class _Timeline:
    """Versions of one webhook, in the order of the log, by the time from which each is in force."""

    def __init__(self) -> None:
        self._from: list[int] = []
        self._versions: list[Version] = []

    def append(self, timestamp: int, settings: Settings | None) -> None:
        """Adds the next record by offset; it never counts before a former one, even if the broker's clock stepped back."""
        former = self._versions[-1] if self._versions else Version(None, 0)
        self._from.append(max(timestamp + SETTLE_MS, self._from[-1] if self._from else 0))
        self._versions.append(Version(settings, former.life + _ends_a_life(former.settings, settings)))

    def at(self, time_ms: int) -> Version:
        """What is in force at a time."""
        index = bisect_right(self._from, time_ms)
        return self._versions[index - 1] if index else Version(None, 0)

    def end_of_life(self, time_ms: int) -> int | None:
        """From when on what arrived at a time is dropped; None if it never is."""
        life = self.at(time_ms).life
        return next((start for start, version in zip(self._from, self._versions) if start > time_ms and version.life != life), None)

    def first_of(self, workspace_id: str) -> int | None:
        """When the webhook began to belong to a workspace."""
        for start, version in zip(self._from, self._versions):
            if version.settings is not None and version.settings.workspace_id == workspace_id:
                return start
        return None


def _ends_a_life(former: Settings | None, settings: Settings | None) -> bool:
    if settings is None or not settings.enabled:
        return True
    return former is not None and former.workspace_id != settings.workspace_id


class History:
    """All webhooks' settings, from the records of `webhook-settings`."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self._timelines: dict[str, _Timeline] = defaultdict(_Timeline)
        self._of_workspace: dict[str, set[str]] = defaultdict(set)
        self.dead_letters: Counter[str] = Counter()
        for record in sorted(records, key=lambda record: (record["partition"], record["offset"])):
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        try:
            settings = read_settings(record["key"], record["value"])
        except DeadLetter:
            self.dead_letters["invalid_settings"] += 1
            return
        self._timelines[record["key"]].append(record["timestamp"], settings)
        if settings is not None:
            self._of_workspace[settings.workspace_id].add(record["key"])

    def at(self, webhook_id: str, time_ms: int) -> Version:
        """What is in force for a webhook."""
        return self._timelines[webhook_id].at(time_ms)

    def end_of_life(self, webhook_id: str, time_ms: int) -> int | None:
        """From when on a webhook's owner has dropped what arrived at a time; None if that never happens."""
        return self._timelines[webhook_id].end_of_life(time_ms)

    def knows(self, workspace_id: str, time_ms: int) -> bool:
        """Whether the workspace has, or had by then, a webhook, enabled or not."""
        starts = (self._timelines[webhook_id].first_of(workspace_id) for webhook_id in self._of_workspace.get(workspace_id, ()))
        return any(start is not None and start <= time_ms for start in starts)

    def wanting(self, workspace_id: str, time_ms: int) -> list[Wanting]:
        """The webhooks that want a message of the workspace which arrives at that time."""
        found = []
        for webhook_id in sorted(self._of_workspace.get(workspace_id, ())):
            version = self.at(webhook_id, time_ms)
            settings = version.settings
            if settings is not None and settings.enabled and settings.workspace_id == workspace_id:
                found.append(Wanting(webhook_id, settings.granularity, settings.url, settings.path, version.life))
        return found


def read_settings(key: str | None, value: str | None) -> Settings | None:
    """Settings of a record, None for a tombstone. Raises DeadLetter where they can't be used."""
    if value is None:
        return None
    root = parse_json(value)
    if not isinstance(root, Object):
        raise DeadLetter("invalid_settings", "not an object")
    fields = Reader(root, "")
    if fields.id("webhook_id") != key:
        raise DeadLetter("invalid_settings", "`webhook_id` is not the record's key")
    _check_owner(fields.object("owner"))
    _check_delivery(fields)
    enabled = fields.optional("enabled", bool)
    return Settings(
        workspace_id=fields.id("workspace_id"),
        url=_url(fields.required("url", str)),
        enabled=True if enabled is None else enabled,
        granularity=_one_of(fields, "granularity", tuple(GRANULARITY_HOURS)),
    )


def _check_owner(owner: Reader) -> None:
    owner.required("full_name", str)
    owner.required("email", str)


def _check_delivery(fields: Reader) -> None:
    _one_of(fields, "success", ("200", "2xx"))
    fields.optional("label", str)
    rate = fields.optional("max_per_second", Number)
    if rate is not None and not (rate.text.isdigit() and len(rate.text) <= 4 and 1 <= int(rate.text) <= 1_000):
        raise DeadLetter("invalid_settings", "`max_per_second` is not 1 to 1000")
    secrets = fields.optional("secrets", list) or []
    if len(secrets) > 2 or not all(isinstance(secret, str) and _SECRET.fullmatch(secret) for secret in secrets):
        raise DeadLetter("invalid_settings", "`secrets` are not at most two, `whsec_` and base64")
    headers = fields.optional("headers", Object) or {}
    if not all(isinstance(value, str) for value in headers.values()):
        raise DeadLetter("invalid_settings", "`headers` are not texts")


def _one_of(fields: Reader, name: str, values: tuple[str, ...]) -> str:
    """One of a few texts, by default the first."""
    value = fields.optional(name, str)
    if value is None:
        return values[0]
    return fields.one_of(name, values)


def _url(text: str) -> str:
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise DeadLetter("invalid_settings", str(error)) from None
    if url.scheme not in ("http", "https") or not url.hostname or any(char <= " " or char == "\x7f" for char in text):
        raise DeadLetter("invalid_settings", "`url` is no absolute http or https URL")
    return text
