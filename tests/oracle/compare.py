#!/usr/bin/env python3
"""Compares what a receiver got with what the contract demands.

    compare.py --expected expected.jsonl --received received.jsonl

`--expected` is what expected.py writes, `--received` what `bundlehook receive --out` writes:

    {"received_at": "…", "method": "POST", "path": "/x", "headers": {"name": "value"}, "body": "…", "status": 200}

Checked are, for the requests that were answered with success: every body byte for byte and as often as expected, per
path; the order of each chat's POSTs; headers; that ids and POSTs belong together one to one. Requests that were
answered otherwise must be attempts of something expected. Exit code 0 if all is equal, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "application/json; charset=utf-8"
Key = tuple[str, str]
"""Path and body."""


@dataclass(frozen=True, eq=False)
class Request:
    """A request that was received; two are never the same."""

    line: int
    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int

    @property
    def key(self) -> Key:
        return (self.path, self.body)

    @property
    def bundle_id(self) -> str:
        return self.headers.get("webhook-id", "")

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Report:
    """What was found, by kind of difference."""

    differences: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        self.differences[kind].append(text)

    def print(self, limit: int) -> None:
        """Prints the first differences of each kind, and the counts."""
        for kind, texts in self.differences.items():
            print(f"{kind}: {len(texts)}")
            for text in texts[:limit]:
                print("  " + text.replace("\n", "\n    "))
            if len(texts) > limit:
                print(f"  and {len(texts) - limit} more")
        print(", ".join(f"{count} {what}" for what, count in self.counts.items()))
        total = sum(map(len, self.differences.values()))
        print(f"{total} differences" if total else "equal")


class Comparison:
    """Expected POSTs against received requests. Bodies may be named instead, equal ones alike; then `text` finds them."""

    def __init__(
        self, expected: list[dict[str, Any]], received: list[Request], allow_repeats: bool, text: Callable[[str], str] = str,
    ) -> None:
        self._text = text
        self._expected = expected
        self._received = received
        self._allow_repeats = allow_repeats
        self._wanted: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        for post in expected:
            self._wanted[(post["path"], post["body"])].append(post)
        # Of one chat, so of one partition: they come in the order of their messages, also where the granularity changed.
        for posts in self._wanted.values():
            posts.sort(key=lambda post: post["offset"])
        self._got: dict[Key, list[Request]] = defaultdict(list)
        self.report = Report()

    def run(self) -> Report:
        """Does all checks."""
        self._sort_out()
        self._check_counts()
        self._check_headers()
        self._check_order()
        self._check_ids()
        return self.report

    def _sort_out(self) -> None:
        counts = self.report.counts
        counts["expected"] = len(self._expected)
        counts["received with success"] = counts["received otherwise"] = counts["repeats"] = 0
        for request in self._received:
            if request.succeeded:
                counts["received with success"] += 1
                self._got[request.key].append(request)
            else:
                counts["received otherwise"] += 1
                if request.key not in self._wanted:
                    self.report.add("unexpected attempts", self._describe_request(request))

    def _check_counts(self) -> None:
        """As many of each body as expected; without repeats from here on, if these are allowed."""
        missing = [
            post for key, posts in self._wanted.items() for post in posts[len(self._got.get(key, [])) :]
        ]
        unexpected = [request for key, requests in self._got.items() for request in self._surplus(key, requests)]
        instead = self._by_message(unexpected if missing else [])
        for post in missing:
            self.report.add("missing", self._describe_missing(post, instead))
        for request in unexpected:
            kind = "received too often" if request.key in self._wanted else "unexpected"
            self.report.add(kind, self._describe_request(request))

    def _surplus(self, key: Key, requests: list[Request]) -> list[Request]:
        """Takes the requests beyond the expected number away and returns those that count as a difference."""
        count = len(self._wanted.get(key, []))
        firsts = {request.bundle_id: request for request in reversed(requests)}
        # Of requests with one id the first is kept, then others as far as more are expected.
        by_rank = sorted(requests, key=lambda request: (firsts[request.bundle_id] is not request, request.line))
        kept, surplus = by_rank[:count], by_rank[count:]
        self._got[key] = sorted(kept, key=lambda request: request.line)
        kept_ids = {request.bundle_id for request in kept}
        repeats = [request for request in surplus if self._allow_repeats and request.bundle_id in kept_ids]
        self.report.counts["repeats"] += len(repeats)
        return [request for request in surplus if request not in repeats]

    def _pairs(self) -> Iterator[tuple[dict[str, Any], Request]]:
        """Each expected POST with its request; equal ones in their order."""
        for key, posts in self._wanted.items():
            yield from zip(posts, self._got.get(key, []))

    def _check_headers(self) -> None:
        for post, request in self._pairs():
            for problem in _header_problems(post, request):
                self.report.add("headers", f"line {request.line}: {problem}; {_describe(post)}")

    def _check_order(self) -> None:
        """Within webhook, chat, partition and granularity the requests come in the order of the expected file."""
        lines = {id(post): request.line for post, request in self._pairs()}
        last: dict[tuple[Any, ...], dict[str, Any]] = {}
        for post in self._expected:
            if id(post) not in lines:
                continue
            stream = tuple(post[name] for name in ("webhook_id", "workspace_id", "chat_id", "partition", "granularity"))
            former = last.get(stream)
            if former is not None and lines[id(former)] > lines[id(post)]:
                detail = f"line {lines[id(post)]}, before line {lines[id(former)]}, {_describe(former)}"
                self.report.add("out of order", f"{_describe(post)}: {detail}")
            else:
                last[stream] = post

    def _check_ids(self) -> None:
        """The same POST has the same `webhook-id`, another one another."""
        owners: dict[str, set[str]] = defaultdict(set)
        for key, posts in self._wanted.items():
            identities = sorted({json.dumps(post["identity"]) for post in posts})
            ids = sorted({request.bundle_id for request in self._got.get(key, [])})
            if len(self._got.get(key, [])) == len(posts) and len(ids) != len(identities):
                self.report.add("ids", f"{len(identities)} POSTs came under {len(ids)} ids: {_describe(posts[0])}")
            for bundle_id in ids:
                # Which of several POSTs with equal bodies an id belongs to can't be told.
                owners[bundle_id].add(identities[0] if len(identities) == 1 else "one of " + " ".join(identities))
        for bundle_id, posts_of_id in owners.items():
            if len(posts_of_id) > 1:
                self.report.add("ids", f"`{bundle_id}` stands for {len(posts_of_id)} POSTs: {' and '.join(sorted(posts_of_id))}")
        self._check_attempts(owners)

    def _check_attempts(self, owners: dict[str, set[str]]) -> None:
        """An attempt that was not a success has an id under which the POST came, if it came."""
        for request in self._received:
            requests = self._got.get(request.key, [])
            if request.key in self._wanted and requests and request.bundle_id not in owners:
                self.report.add("ids", f"line {request.line}: an attempt under another id, `{request.bundle_id}`")

    def _describe_request(self, request: Request) -> str:
        ids = _message_ids(self._text(request.body))
        return f"line {request.line}: {request.path} id {request.bundle_id} status {request.status}, messages {_shorten(ids)}"

    def _by_message(self, requests: Iterable[Request]) -> dict[tuple[str, str], list[Request]]:
        """Requests by path and message id."""
        found: dict[tuple[str, str], list[Request]] = defaultdict(list)
        for request in requests:
            for message_id in _message_ids(self._text(request.body)):
                found[request.path, message_id].append(request)
        return found

    def _describe_missing(self, post: dict[str, Any], instead: dict[tuple[str, str], list[Request]]) -> str:
        """An expected POST that did not come, with the difference to what came in its place, as far as that can be told."""
        ids = _message_ids(self._text(post["body"]))
        text = f"{_describe(post)}, messages {_shorten(ids)}"
        shared = Counter(request for message_id in ids for request in instead.get((post["path"], message_id), ()))
        if not shared:
            return text
        nearest = shared.most_common(1)[0][0]
        theirs = _message_ids(self._text(nearest.body))
        if theirs != ids:
            return f"{text}\nline {nearest.line} lacks {_shorten(ids - theirs)} and has besides {_shorten(theirs - ids)}"
        difference = _first_difference(self._text(post["body"]), self._text(nearest.body))
        return f"{text}\nline {nearest.line} differs:\n{difference}"


def _header_problems(post: dict[str, Any], request: Request) -> Iterator[str]:
    headers = request.headers
    part = str(post["part"]) if post["part"] else None
    if request.method != "POST":
        yield f"the method is `{request.method}`"
    if headers.get("content-type") != CONTENT_TYPE:
        yield f"`content-type` is `{headers.get('content-type')}`"
    if not headers.get("user-agent", "").startswith("Bundlehook/"):
        yield f"`user-agent` is `{headers.get('user-agent')}`"
    if not request.bundle_id:
        yield "`webhook-id` is missing"
    if not headers.get("webhook-timestamp", "").isdigit():
        yield f"`webhook-timestamp` is `{headers.get('webhook-timestamp')}`"
    if headers.get("bundlehook-part") != part:
        yield f"`bundlehook-part` is `{headers.get('bundlehook-part')}`, expected `{part}`"


def _describe(post: dict[str, Any]) -> str:
    window = f" window {post['window_start']} part {post['part']}" if post["window_start"] else ""
    source = f"partition {post['partition']} offset {post['offset']}"
    return f"{post['path']} chat {post['chat_id']!r}{window}, {post['messages']} messages from {source}"


def _first_difference(expected: str, received: str) -> str:
    same = next((index for index, (a, b) in enumerate(zip(expected, received)) if a != b), min(len(expected), len(received)))
    start = max(0, same - 40)
    return f"expected …{expected[start : same + 60]!r}\nreceived …{received[start : same + 60]!r} (character {same})"


def _message_ids(body: str) -> set[str]:
    try:
        content = json.loads(body)
        return {message["message_id"] for message in content.get("messages", [content.get("message")])}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()


def _shorten(ids: set[str], limit: int = 5) -> str:
    names = sorted(ids)
    return f"[{', '.join(names[:limit])}{f' and {len(names) - limit} more' if len(names) > limit else ''}]"


def read_expected(path: str, ignored: tuple[str, ...]) -> list[dict[str, Any]]:
    """The expected POSTs."""
    with open(path, encoding="utf-8", newline="\n") as file:
        posts = [json.loads(line) for line in file]
    return [post for post in posts if not (ignored and post["path"].startswith(ignored))]


def read_received(path: str, ignored: tuple[str, ...]) -> list[Request]:
    """The received requests, in their order."""
    with open(path, encoding="utf-8", newline="\n") as file:
        requests = [_request(number, json.loads(line)) for number, line in enumerate(file, 1)]
    return [request for request in requests if not (ignored and request.path.startswith(ignored))]


def _request(line: int, entry: dict[str, Any]) -> Request:
    headers = {name.lower(): value for name, value in entry["headers"].items()}
    return Request(line, entry["method"], entry["path"], headers, entry["body"], entry["status"])


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expected", required=True, metavar="FILE", help="what expected.py wrote")
    parser.add_argument("--received", required=True, metavar="FILE", help="what `bundlehook receive --out` wrote")
    parser.add_argument("--allow-repeats", action="store_true", help="count a POST that came again under its id, don't report it")
    parser.add_argument("--ignore-path", action="append", default=[], metavar="PREFIX", help="leave paths out; may be repeated")
    parser.add_argument("--limit", type=int, default=10, help="print so many differences of each kind (default: 10)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line."""
    options = _arguments(arguments)
    ignored = tuple(options.ignore_path)
    expected = read_expected(options.expected, ignored)
    received = read_received(options.received, ignored)
    report = Comparison(expected, received, options.allow_repeats).run()
    report.print(options.limit)
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
