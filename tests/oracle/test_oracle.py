#!/usr/bin/env python3
"""Tests of the oracle: `python3 -m unittest discover -s tests/oracle`."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import time
import unittest
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import compare
import expected
import generate
import settings
from bodies import aggregation, compact, escape, object_bytes
from events import DeadLetter, Event, Skip, is_blank, read_event
from expected import Oracle, Post
from instants import minute_text, parse_duration, parse_timestamp, window_text, wire_timestamp
from webhooks import SETTLE_MS, History
from windows import Boundaries, Rules

EXAMPLES = Path(__file__).parent.parent / "examples"
HOUR = 3_600_000
MINUTE = 60_000
NOON = 1_614_168_000_000  # 2021-02-24T12:00:00Z, the start of a window of 1h, 6h and 12h
NO_AGE = Rules(max_age_ms=0)


def event(**changes: Any) -> dict[str, Any]:
    """A valid event; changes are named `message__text` and the like."""
    record: dict[str, Any] = {
        "workspace_id": "ws",
        "whatsapp_account": {"full_name": "Amnon", "email": "amnon@acme.example", "phone": "+1"},
        "chat": {
            "full_name": "John", "responsible_name": "Rina", "responsible_email": "rina@acme.example",
            "chat_url": "https://crm.example/chat/7/", "chat_id": "7", "is_new_chat": False, "is_group": False, "phone": "+2",
        },
        "message": {
            "direction": "received", "timestamp": "2021-02-24T12:00:00Z", "message_id": "m",
            "sender": {"full_name": "John", "phone": "+2"}, "recipient": {"full_name": "Amnon", "phone": "+1"}, "text": "hello",
        },
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[name] = value
    return record


def without(*path: str) -> dict[str, Any]:
    """A valid event but for one field."""
    record = event()
    place = record
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return record


def stored(value: Any, offset: int, arrived_at: int, partition: int = 0) -> dict[str, Any]:
    """A record as Kafka stores it."""
    text = value if value is None or isinstance(value, str) else json.dumps(value)
    return {"partition": partition, "offset": offset, "timestamp": arrived_at, "key": "7", "value": text}


def setting(webhook_id: str, granularity: str, offset: int = 0, at: int = 0, **changes: Any) -> dict[str, Any]:
    """A settings record."""
    value = settings.webhook("ws", granularity, "http://127.0.0.1:9000") | {"webhook_id": webhook_id} | changes
    value["url"] = changes.get("url", f"http://127.0.0.1:9000/{webhook_id}")
    return {"partition": 0, "offset": offset, "timestamp": at, "key": webhook_id, "value": json.dumps(value)}


def tombstone(webhook_id: str, offset: int, at: int) -> dict[str, Any]:
    """A settings record that deletes."""
    return {"partition": 0, "offset": offset, "timestamp": at, "key": webhook_id, "value": None}


def run(records: list[dict[str, Any]], webhooks: list[dict[str, Any]], rules: Rules = NO_AGE, **options: Any) -> Oracle:
    """The oracle after all records."""
    logged = options.pop("logged", {})
    oracle = Oracle(History(webhooks), rules, "TimelinesAI", **options)
    oracle.run(records, logged)
    return oracle


def message(number: int, at: int, offset: int | None = None, sent_at: int | None = None, **changes: Any) -> dict[str, Any]:
    """A record with a message `m{number}` that was sent when it arrived, unless said otherwise."""
    timestamp = wire_timestamp((at if sent_at is None else sent_at) * 1_000_000)
    changes = {"message__message_id": f"m{number}", "message__timestamp": timestamp, "message__text": f"text {number}"} | changes
    return stored(event(**changes), number if offset is None else offset, at)


def message_ids(post: Post) -> list[str]:
    """The ids of a POST's messages."""
    body = json.loads(post.body)
    return [entry["message_id"] for entry in body.get("messages", [body.get("message")])]


def bundles(oracle: Oracle) -> list[list[str]]:
    """The message ids of all POSTs."""
    return [message_ids(post) for post in oracle.posts]


class Examples(unittest.TestCase):
    """The examples, produced to a topic today."""

    def setUp(self) -> None:
        now = int(time.time() * 1_000) // (24 * HOUR) * 24 * HOUR + HOUR // 2
        lines = (EXAMPLES / "events.jsonl").read_text(encoding="utf-8").split("\n")
        self.records = [stored(line, index, now + index) for index, line in enumerate(lines) if line]

    def bodies(self, granularity: str) -> list[str]:
        webhook = setting("wh", granularity, workspace_id="ws-acme")
        return [post.body for post in run(self.records, [webhook]).posts]

    def wire(self, name: str) -> str:
        return compact(json.loads((EXAMPLES / name).read_text(encoding="utf-8")))

    def test_every_window_length_gives_the_two_bundles(self) -> None:
        for granularity in ("1h", "6h", "12h", "24h"):
            self.assertEqual(self.bodies(granularity), [self.wire("bundle.json"), self.wire("group.json")])

    def test_the_first_event_at_once_gives_the_single_body(self) -> None:
        bodies = self.bodies("none")
        self.assertEqual(len(bodies), 4)
        self.assertEqual(bodies[0], self.wire("message.json"))

    def test_the_photo_is_skipped(self) -> None:
        oracle = run(self.records, [setting("wh", "1h", workspace_id="ws-acme")])
        self.assertEqual(oracle.records, {"attachments": 1, "wanted": 4})


class Timestamps(unittest.TestCase):
    def test_the_three_forms_and_their_zones(self) -> None:
        same = [
            "2021-02-24T16:25:29+0000", "2021-02-24T18:25:29+0200", "2021-02-24T16:25:29Z", "2021-02-24t16:25:29z",
            "2021-02-24 16:25:29Z", "2021-02-24T11:55:29-04:30", "2021-02-24 18:25:29 +0200", "2021-02-24T16:25:29-00:00",
        ]
        for text in same:
            self.assertEqual(parse_timestamp(text), 1_614_183_929_000_000_000, text)

    def test_fractions_count_to_the_nanosecond(self) -> None:
        base = 1_614_183_929_000_000_000
        for fraction, expected_ns in [("5", 500_000_000), ("000000001", 1), ("0000000019", 1), ("123456789999", 123_456_789)]:
            self.assertEqual(parse_timestamp(f"2021-02-24T16:25:29.{fraction}Z"), base + expected_ns)
            self.assertEqual(parse_timestamp(f"2021-02-24 18:25:29.{fraction} +0200"), base + expected_ns)

    def test_what_is_no_timestamp(self) -> None:
        wrong = [
            "", "now", "2021-02-24", "2021-02-24T16:25:29", "2021-02-24T16:25Z", "2021-2-24T16:25:29Z", "2021-02-30T16:25:29Z",
            "2021-13-01T16:25:29Z", "2021-00-01T16:25:29Z", "2021-02-24T24:00:00Z", "2021-02-24T16:60:00Z", "2021-02-24T16:25:61Z",
            "2021-02-24T16:25:29.Z", "2021-02-24T16:25:29+24:00", "2021-02-24T16:25:29+0060", "2021-02-24T16:25:29 +02:00",
            " 2021-02-24T16:25:29Z", "2021-02-24T16:25:29Z\n", "+2021-02-24T16:25:29Z", "２021-02-24T16:25:29Z", "2021-02-24T16:25:29+02",
            "9999-12-31T23:59:59-0001", "0000-01-01T00:00:00+0001", "1614183929",
        ]
        for text in wrong:
            self.assertIsNone(parse_timestamp(text), text)

    def test_output_cuts_to_the_second_and_the_minute(self) -> None:
        for text, out in [
            ("2021-02-24T16:25:29.999999999Z", "2021-02-24T16:25:29+0000"), ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59+0000"),
            ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00+0000"), ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59+0000"),
            ("2016-12-31T23:59:60.5Z", "2017-01-01T00:00:00+0000"),
        ]:
            instant = parse_timestamp(text)
            assert instant is not None
            self.assertEqual(wire_timestamp(instant), out)
            self.assertEqual(minute_text(instant), out[:16].replace("T", " "))

    def test_durations_and_window_starts(self) -> None:
        for text, ms in [("0", 0), ("333ms", 333), ("20s", 20_000), ("1h", HOUR), ("7d", 168 * HOUR), ("1m30s", 90_000)]:
            self.assertEqual(parse_duration(text), ms)
        for text in ("", "20", "s", "-1s", "1.5h"):
            self.assertRaises(ValueError, parse_duration, text)
        self.assertEqual(window_text(NOON), "2021-02-24T12:00:00Z")
        self.assertEqual(window_text(NOON + 250), "2021-02-24T12:00:00.250Z")


class Reading(unittest.TestCase):
    def read(self, record: Any) -> Event | Skip:
        return read_event(record if isinstance(record, (str, bytes)) else json.dumps(record))

    def reason(self, record: Any) -> str:
        with self.assertRaises(DeadLetter) as caught:
            self.read(record)
        return caught.exception.reason

    def read_valid(self, record: Any) -> Event:
        found = self.read(record)
        assert isinstance(found, Event)
        return found

    def test_null_phones_and_responsibles_read_as_empty(self) -> None:
        for path in (
            "whatsapp_account__phone", "chat__phone", "chat__responsible_name", "chat__responsible_email", "message__sender__phone",
            "message__recipient__phone",
        ):
            found = self.read_valid(event(**{path: None}))
            self.assertEqual(json.loads(compact([found.account, found.chat, found.message])), self._emptied(path))

    def _emptied(self, path: str) -> list[Any]:
        record = event(**{path: ""})
        record["message"]["timestamp"] = "2021-02-24T12:00:00+0000"
        return [record["whatsapp_account"], record["chat"], record["message"]]

    def test_every_field_is_required_and_null_reads_as_missing(self) -> None:
        required = [
            ("workspace_id",), ("whatsapp_account",), ("whatsapp_account", "full_name"), ("whatsapp_account", "email"),
            ("chat",), ("chat", "full_name"), ("chat", "chat_url"), ("chat", "chat_id"), ("chat", "is_new_chat"), ("chat", "is_group"),
            ("message",), ("message", "direction"), ("message", "timestamp"), ("message", "message_id"),
            ("message", "sender"), ("message", "sender", "full_name"), ("message", "recipient"), ("message", "recipient", "full_name"),
        ]
        for path in required:
            self.assertEqual(self.reason(without(*path)), "missing_field", path)
            self.assertEqual(self.reason(event(**{"__".join(path): None})), "missing_field", path)
        for path in [
            ("whatsapp_account", "phone"), ("chat", "phone"), ("chat", "responsible_name"), ("chat", "responsible_email"),
            ("message", "sender", "phone"), ("message", "recipient", "phone"),
        ]:
            self.assertEqual(self.reason(without(*path)), "missing_field", path)

    def test_wrong_types_and_values(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"workspace_id": 1}, {"whatsapp_account": []}, {"chat__is_group": 1}, {"chat__chat_id": True}, {"chat__chat_id": 1.0},
            {"chat__chat_id": 2**64}, {"chat__chat_id": -(2**63) - 1}, {"message__direction": "SENT"},
            {"message__direction": {"sent": None}},
            {"message__text": 1}, {"message__attachments": {}}, {"message__attachments": "x"}, {"message__permalink": 1},
            {"message__message_id": ""}, {"message__message_id": "x" * 129}, {"workspace_id": "é" * 65}, {"message": []},
        ]
        for changes in wrong:
            self.assertEqual(self.reason(event(**changes)), "invalid_field", changes)

    def test_a_chat_id_may_be_an_integer(self) -> None:
        for number, text in [
            (10010001, "10010001"), (0, "0"), (-5, "-5"), (2**64 - 1, "18446744073709551615"), (-(2**63), "-9223372036854775808"),
        ]:
            self.assertEqual(self.read_valid(event(chat__chat_id=number)).chat_id, text)
        for raw in ("1e3", "1.0", "-0"):
            self.assertEqual(self.reason(json.dumps(event()).replace('"chat_id": "7"', f'"chat_id": {raw}')), "invalid_field", raw)

    def test_ids_of_128_bytes_are_allowed(self) -> None:
        self.assertEqual(self.read_valid(event(message__message_id="é" * 64)).message_id, "é" * 64)

    def test_skips_come_before_anything_else(self) -> None:
        self.assertEqual(self.read({"message": {"attachments": [1], "text": 5}}), Skip("attachments"))
        contents: list[dict[str, Any]] = [{}, {"text": None}, {"text": " \n"}, {"attachments": [], "text": ""}, {"attachments": None}]
        for content in contents:
            self.assertEqual(self.read({"message": content}), Skip("empty_text"))

    def test_white_space_is_what_unicode_says(self) -> None:
        self.assertTrue(is_blank("\t\n\x0b\x0c\r \x85\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"))
        for char in "\x1c\x1f\u200b\u200d\ufeff\u180e\x00":
            self.assertFalse(is_blank(char), repr(char))

    def test_bytes_that_are_no_event(self) -> None:
        for value, reason in [
            (b"\xff", "invalid_utf8"), (b'{"x": "\xed\xa0\x80"}', "invalid_utf8"), (b"", "invalid_json"), (b"{", "invalid_json"),
            (b"{} {}", "invalid_json"),
            ("\ufeff{}", "invalid_json"), ('{"x": NaN}', "invalid_json"), ('{"x": 01}', "invalid_json"), ('{"x": "\t"}', "invalid_json"),
            ("{'x': 1}", "invalid_json"),
            ("[]", "invalid_field"), ("null", "invalid_field"), ("7", "invalid_field"), ("{}", "missing_field"),
        ]:
            self.assertEqual(self.reason(value), reason, value)
        with self.assertRaises(DeadLetter) as caught:
            read_event(None)
        self.assertEqual(caught.exception.reason, "null_value")

    def test_half_a_surrogate_pair_counts_only_where_it_is_read(self) -> None:
        self.assertEqual(self.reason(event(message__text="\ud83d")), "invalid_json")
        self.assertEqual(self.reason(event(chat__full_name="a\udc00")), "invalid_json")
        self.read_valid(event(extra="\ud83d"))
        self.assertEqual(self.read_valid(json.dumps(event(message__text="🙂"))).message["text"], "🙂")

    def test_a_name_that_occurs_twice_counts_only_where_it_is_read(self) -> None:
        text = json.dumps(event())
        self.assertEqual(self.reason(text[:-1] + ', "workspace_id": "ws"}'), "invalid_field")
        self.read_valid(text[:-1] + ', "extra": 1, "extra": 2}')

    def test_unknown_fields_are_ignored_whatever_they_hold(self) -> None:
        text = json.dumps(event())
        for raw in ("1e400", "-1E-400", "9" * 5_000, '{"a": [1, {"b": null}]}', '"\\u0000"'):
            self.read_valid(text[:-1] + f', "extra": {raw}' + "}")


class Json(unittest.TestCase):
    def test_strings_are_escaped_only_where_json_demands_it(self) -> None:
        for code in range(0x20):
            short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
            self.assertEqual(compact(chr(code)), f'"{short.get(code, f"{chr(92)}u{code:04x}")}"')
        self.assertEqual(compact('"\\'), '"\\"\\\\"')
        for char in "/\x7f\x80\u2028\u2029\ufeff<&'🙂é":
            self.assertEqual(compact(char), f'"{char}"')

    def test_fields_stand_in_the_order_of_the_contract(self) -> None:
        (post,) = run([message(0, NOON)], [setting("wh", "none")]).posts
        self.assertEqual(
            post.body,
            '{"whatsapp_account":{"full_name":"Amnon","email":"amnon@acme.example","phone":"+1"},'
            '"chat":{"full_name":"John","responsible_name":"Rina","responsible_email":"rina@acme.example",'
            '"chat_url":"https://crm.example/chat/7/","chat_id":"7","is_new_chat":false,"is_group":false,"phone":"+2"},'
            '"message":{"direction":"received","timestamp":"2021-02-24T12:00:00+0000","message_id":"m0",'
            '"sender":{"full_name":"John","phone":"+2"},"recipient":{"full_name":"Amnon","phone":"+1"},"text":"text 0"}}',
        )


class _Page(HTMLParser):
    """What a reader of the HTML sees: its text, line ends and links."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[str | None] = []
        self.feed(html)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self.text += "\n"
        elif tag == "a":
            self.links.append(dict(attrs)["href"])
        else:
            raise AssertionError(f"a tag `{tag}` got through")


class Html(unittest.TestCase):
    def events(self, *records: dict[str, Any]) -> list[Event]:
        found = [read_event(json.dumps(record)) for record in records]
        return [entry for entry in found if isinstance(entry, Event)]

    def aggregation(self, *records: dict[str, Any], chat_url: str = "", product: str = "TimelinesAI") -> str:
        return aggregation(self.events(*records), chat_url, product)

    def test_text_is_escaped(self) -> None:
        self.assertEqual(escape("<a href=\"x\">'&amp;"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;amp;")
        self.assertEqual(escape("a\r\nb\rc\nd\n\re\r\n\r\n"), "a<br/>b<br/>c<br/>d<br/><br/>e<br/><br/>")
        self.assertEqual(escape("\x00\t\x0b\x1b\x7f\x80\x85\x9fx"), "x")
        self.assertEqual(escape("\u200d\u2028\u2029\ufeff\u00ad\u202e"), "\u200d\u2028\u2029\ufeff\u00ad\u202e")
        self.assertEqual(escape("\r\x00\n"), "<br/><br/>")

    def test_a_browser_sees_the_text_again(self) -> None:
        nasty = "</a><script>alert(1)</script>&lt;&#39;\" <br/>\r\nend\u200d🙂"
        html = self.aggregation(
            event(message__text=nasty, message__sender={"full_name": "<b>&", "phone": ""}, message__permalink="https://x/?a=1&b='2'")
        )
        page = _Page(html)
        self.assertEqual(
            page.text,
            f"from <b>& on 2021-02-24 12:00: {nasty}\nClick here to open the conversation in TimelinesAI".replace("\r\n", "\n"),
        )
        self.assertEqual(page.links, ["https://x/?a=1&b='2'"])

    def test_lines_are_joined(self) -> None:
        html = self.aggregation(event(message__text="a"), event(message__text="b"))
        self.assertEqual(html, "from John on 2021-02-24 12:00: a<br/>from John on 2021-02-24 12:00: b")

    def test_the_link_is_the_first_permalink_or_the_chats_url_or_none(self) -> None:
        for permalink, chat_url, link in [
            ("https://p/", "https://c/", "https://p/"), ("HTTP://p/", "https://c/", "HTTP://p/"), ("", "https://c/", "https://c/"),
            ("javascript:alert(1)", "http://c/", "http://c/"), (" https://p/", "https://c/", "https://c/"), (None, "", None),
            ("https:/p", "javascript:alert(1)", None), ("https://", "http://", None), ("xhttps://p/", "https", None),
            ("ftp://p/", "/c", None),
        ]:
            html = self.aggregation(event(message__permalink=permalink), event(message__permalink="https://second/"), chat_url=chat_url)
            self.assertEqual(_Page(html).links, [] if link is None else [link])

    def test_the_product_name_is_escaped(self) -> None:
        self.assertTrue(
            self.aggregation(event(), chat_url="https://c/", product="A & B").endswith("</a> to open the conversation in A &amp; B")
        )


class EffectiveTime(unittest.TestCase):
    def test_the_timestamp_decides_within_its_bounds(self) -> None:
        for sent_at, closed, result in [
            (NOON, 0, NOON), (NOON - MINUTE, 0, NOON - MINUTE), (NOON - MINUTE - 1, 0, NOON - MINUTE), (NOON - 9 * HOUR, 0, NOON - MINUTE),
            (NOON + 5 * MINUTE, 0, NOON + 5 * MINUTE), (NOON + 5 * MINUTE + 1, 0, NOON), (NOON - 9 * HOUR, NOON, NOON),
            (NOON - 9 * HOUR, NOON + HOUR, NOON + HOUR),
        ]:
            self.assertEqual(NO_AGE.effective_time(sent_at * 1_000_000, NOON, closed), result * 1_000_000)

    def test_windows_hold_their_start_and_not_their_end(self) -> None:
        for hours, name in [(1, "1h"), (6, "6h"), (12, "12h"), (24, "24h")]:
            start = NOON // (hours * HOUR) * hours * HOUR
            self.assertEqual(NO_AGE.window_start(start * 1_000_000, name), start)
            self.assertEqual(NO_AGE.window_start((start + hours * HOUR) * 1_000_000 - 1, name), start)
            self.assertEqual(NO_AGE.window_start((start + hours * HOUR) * 1_000_000, name), start + hours * HOUR)

    def test_records_close_boundaries_even_if_later_ones_arrived_earlier(self) -> None:
        boundaries = Boundaries(NO_AGE, [])
        self.assertEqual(boundaries.read(0, NOON + MINUTE - 1), NOON - HOUR)
        self.assertEqual(boundaries.read(1, NOON + MINUTE), NOON)
        self.assertEqual(boundaries.read(2, NOON - HOUR), NOON)

    def test_the_clock_closes_boundaries_from_an_offset_on(self) -> None:
        boundaries = Boundaries(NO_AGE, [(20, NOON + HOUR), (10, NOON)])
        found = [boundaries.read(offset, NOON) for offset in (9, 10, 19, 20, 21)]
        self.assertEqual(found, [NOON - HOUR, NOON, NOON, NOON + HOUR, NOON + HOUR])

    def test_the_age_limit(self) -> None:
        rules = Rules(max_age_ms=1_000)
        self.assertFalse(rules.is_too_old((NOON - 1_000) * 1_000_000, NOON))
        self.assertTrue(rules.is_too_old((NOON - 1_000) * 1_000_000 - 1, NOON))
        self.assertFalse(NO_AGE.is_too_old(0, NOON))


class Windows(unittest.TestCase):
    hourly = [setting("wh", "1h")]

    def test_a_late_message_joins_the_open_window_with_its_true_timestamp(self) -> None:
        oracle = run([message(0, NOON + 2 * MINUTE), message(1, NOON + 3 * MINUTE, sent_at=NOON - 5 * HOUR)], self.hourly)
        self.assertEqual(bundles(oracle), [["m1", "m0"]])
        self.assertEqual(json.loads(oracle.posts[0].body)["first_message_timestamp"], "2021-02-24T07:00:00+0000")

    def test_within_the_grace_a_message_joins_the_window_that_has_ended(self) -> None:
        records = [
            message(0, NOON - MINUTE), message(1, NOON + MINUTE - 1, sent_at=NOON - 1_000),
            message(2, NOON + MINUTE, sent_at=NOON - 1_000),
        ]
        self.assertEqual(bundles(run(records, self.hourly)), [["m0", "m1"], ["m2"]])

    def test_a_message_of_the_near_future_opens_the_next_window(self) -> None:
        records = [message(0, NOON - 3 * MINUTE, sent_at=NOON + MINUTE), message(1, NOON - 2 * MINUTE)]
        oracle = run(records, self.hourly)
        self.assertEqual(
            [(post.window_start, message_ids(post)) for post in oracle.posts],
            [("2021-02-24T11:00:00Z", ["m1"]), ("2021-02-24T12:00:00Z", ["m0"])],
        )

    def test_a_window_closed_by_the_clock_takes_nothing_more(self) -> None:
        records = [message(0, NOON - MINUTE), message(1, NOON + 1_000, sent_at=NOON - 1_000)]
        self.assertEqual(bundles(run(records, self.hourly)), [["m0", "m1"]])
        self.assertEqual(bundles(run(records, self.hourly, logged={0: [(1, NOON)]})), [["m0"], ["m1"]])
        self.assertEqual(bundles(run(records, self.hourly, logged={1: [(1, NOON)]})), [["m0", "m1"]])

    def test_records_that_are_dead_letters_or_skips_close_boundaries_too(self) -> None:
        values: list[Any] = ["{", None, {"message": {}}]
        for value in values:
            records = [message(0, NOON - MINUTE), stored(value, 1, NOON + MINUTE), message(2, NOON - 1_000)]
            self.assertEqual(bundles(run(records, self.hourly)), [["m0"], ["m2"]])

    def test_messages_are_ordered_by_timestamp_with_fraction_then_by_arrival(self) -> None:
        stamps = ["2021-02-24T12:00:01Z", "2021-02-24T12:00:00.9Z", "2021-02-24T12:00:00.90Z", "2021-02-24T12:00:00.899999999Z"]
        records = [message(index, NOON + 5_000 - index, message__timestamp=stamp) for index, stamp in enumerate(stamps)]
        self.assertEqual(bundles(run(records, self.hourly)), [["m3", "m1", "m2", "m0"]])

    def test_details_are_those_of_the_last_arrived_and_a_new_chat_stays_new(self) -> None:
        records = [
            message(0, NOON, chat__is_new_chat=True, chat__full_name="old"),
            message(1, NOON + MINUTE, sent_at=NOON - 9 * HOUR, chat__full_name="new", chat__phone=None, whatsapp_account__phone="+9"),
        ]
        (post,) = run(records, self.hourly).posts
        body = json.loads(post.body)
        self.assertEqual((body["chat"]["full_name"], body["chat"]["phone"], body["chat"]["is_new_chat"]), ("new", "", True))
        self.assertEqual(body["whatsapp_account"]["phone"], "+9")

    def test_chats_are_told_apart_by_workspace_and_id_and_a_number_is_a_string(self) -> None:
        webhooks = [setting("a", "1h"), setting("b", "1h", workspace_id="other")]
        records = [
            message(0, NOON), message(1, NOON, chat__chat_id=7), message(2, NOON, workspace_id="other"),
            message(3, NOON, chat__chat_id="8"),
        ]
        self.assertEqual(bundles(run(records, webhooks)), [["m0", "m1"], ["m3"], ["m2"]])

    def test_open_windows_are_not_expected(self) -> None:
        records = [message(0, NOON - HOUR), message(1, NOON + MINUTE)]
        oracle = run(records, self.hourly, closed_until=NOON + MINUTE)
        self.assertEqual(bundles(oracle), [["m0"]])
        self.assertEqual(oracle.webhooks["wh"], {"sent": 1, "posts": 1, "open": 1})

    def test_a_short_hour_shortens_windows(self) -> None:
        rules = Rules(hour_ms=20_000, grace_ms=333, max_age_ms=0)
        records = [message(index, NOON + index * 10_000) for index in range(13)]
        found = bundles(run(records, [setting("wh", "6h")], rules))
        self.assertEqual([len(ids) for ids in found], [12, 1])


class Repeats(unittest.TestCase):
    def test_in_a_window_the_first_to_arrive_counts(self) -> None:
        records = [
            message(0, NOON), message(0, NOON + 1, offset=1, message__text="other", chat__is_new_chat=True, chat__full_name="other"),
            message(2, NOON + HOUR),
        ]
        oracle = run(records, [setting("wh", "1h")])
        self.assertEqual(bundles(oracle), [["m0"], ["m2"]])
        body = json.loads(oracle.posts[0].body)
        self.assertEqual((body["messages"][0]["text"], body["chat"]["full_name"], body["chat"]["is_new_chat"]), ("text 0", "John", False))
        self.assertEqual(oracle.webhooks["wh"], {"sent": 2, "posts": 2, "duplicate": 1})

    def test_another_window_takes_the_message_again(self) -> None:
        records = [message(0, NOON), message(0, NOON + 2 * HOUR, offset=1)]
        webhooks = [setting("hour", "1h"), setting("six", "6h")]
        self.assertEqual(
            [(post.webhook_id, len(message_ids(post))) for post in run(records, webhooks).posts], [("hour", 1), ("hour", 1), ("six", 1)],
        )

    def test_another_chat_or_workspace_has_its_own_ids(self) -> None:
        webhooks = [setting("a", "1h"), setting("b", "none"), setting("c", "1h", workspace_id="other")]
        records = [message(0, NOON), message(0, NOON, offset=1, chat__chat_id="8"), message(0, NOON, offset=2, workspace_id="other")]
        self.assertEqual(len(run(records, webhooks).posts), 5)

    def test_a_repeat_is_recognised_across_parts(self) -> None:
        records = [message(index, NOON) for index in range(5)] + [message(0, NOON, offset=5), message(5, NOON, offset=6)]
        found = bundles(run(records, [setting("wh", "1h")], Rules(max_age_ms=0, part_messages=2)))
        self.assertEqual(found, [["m0", "m1"], ["m2", "m3"], ["m4", "m5"]])

    def test_at_once_a_repeat_within_ten_minutes_of_the_one_sent_is_dropped(self) -> None:
        times = [0, 8 * MINUTE, 10 * MINUTE, 10 * MINUTE + 1, 20 * MINUTE, 20 * MINUTE + 2]
        records = [message(0, NOON + at, offset=index) for index, at in enumerate(times)]
        oracle = run(records, [setting("wh", "none")])
        self.assertEqual([post.offset for post in oracle.posts], [0, 3, 5])
        self.assertEqual([(post.offset, message_ids(post)) for post in oracle.repeats], [(1, ["m0"]), (2, ["m0"]), (4, ["m0"])])

    def test_totals_count_once_however_many_webhooks_want_it(self) -> None:
        records = [message(index, NOON) for index in range(5)] + [message(0, NOON, offset=5)]
        webhooks = [setting("a", "1h"), setting("b", "1h", offset=1), setting("c", "6h", offset=2), setting("d", "none", offset=3)]
        oracle = run(records, webhooks, Rules(max_age_ms=0, part_messages=2))
        self.assertEqual(oracle.totals, {"duplicates": 3, "windows 1h": 1, "windows 6h": 1, "sealed parts": 4})

    def test_a_skipped_message_is_no_first_one(self) -> None:
        records = [message(0, NOON, message__attachments=[{}]), message(0, NOON, offset=1, message__text=" "), message(0, NOON, offset=2)]
        for granularity in ("1h", "none"):
            self.assertEqual(bundles(run(records, [setting("wh", granularity)])), [["m0"]])

    def test_a_message_that_no_webhook_wanted_at_that_granularity_is_no_first_one(self) -> None:
        records = [message(0, NOON), message(0, NOON + 10_000, offset=1)]
        webhooks = [setting("late", "1h", at=NOON), setting("other", "6h", offset=1)]
        self.assertEqual([post.webhook_id for post in run(records, webhooks).posts], ["late", "other"])

    def test_a_window_that_another_webhook_opened_recognises_its_repeats_for_all(self) -> None:
        records = [message(0, NOON), message(0, NOON + 10_000, offset=1)]
        webhooks = [setting("late", "1h", at=NOON), setting("early", "1h", offset=1)]
        oracle = run(records, webhooks)
        self.assertEqual([post.webhook_id for post in oracle.posts], ["early"])
        self.assertEqual(oracle.webhooks["late"], {"duplicate": 1})


class Parts(unittest.TestCase):
    def parts(self, records: list[dict[str, Any]], **limits: int) -> list[tuple[int, list[str]]]:
        oracle = run(records, [setting("wh", "1h")], Rules(max_age_ms=0, **limits))
        return [(post.part, message_ids(post)) for post in oracle.posts]

    def test_a_window_within_the_limits_is_no_part(self) -> None:
        records = [message(index, NOON) for index in range(3)]
        self.assertEqual(self.parts(records, part_messages=3), [(0, ["m0", "m1", "m2"])])

    def test_one_message_more_begins_the_next_part(self) -> None:
        records = [message(index, NOON) for index in range(4)]
        self.assertEqual(self.parts(records, part_messages=3), [(1, ["m0", "m1", "m2"]), (2, ["m3"])])

    def test_bytes_are_those_of_the_message_objects(self) -> None:
        records = [message(index, NOON, message__text="é\n<") for index in range(3)]
        found = read_event(records[0]["value"])
        assert isinstance(found, Event)
        size = object_bytes(found)
        self.assertEqual(size, len(json.dumps(found.message, separators=(",", ":"), ensure_ascii=False).encode()))
        self.assertEqual(self.parts(records, part_bytes=2 * size), [(1, ["m0", "m1"]), (2, ["m2"])])
        self.assertEqual(self.parts(records, part_bytes=2 * size - 1), [(1, ["m0"]), (2, ["m1"]), (3, ["m2"])])

    def test_a_message_above_the_limit_is_a_part_of_its_own(self) -> None:
        records = [message(0, NOON), message(1, NOON, message__text="x" * 2_000), message(2, NOON), message(3, NOON)]
        self.assertEqual(self.parts(records, part_bytes=1_000), [(1, ["m0"]), (2, ["m1"]), (3, ["m2", "m3"])])
        self.assertEqual(self.parts(records[1:2], part_bytes=1_000), [(0, ["m1"])])

    def test_parts_are_cut_by_arrival_and_sorted_within(self) -> None:
        records = [message(index, NOON + 5_000, sent_at=NOON + 4_000 - 1_000 * index) for index in range(4)]
        self.assertEqual(self.parts(records, part_messages=2), [(1, ["m1", "m0"]), (2, ["m3", "m2"])])

    def test_details_and_new_chat_belong_to_each_part(self) -> None:
        records = [message(0, NOON, chat__is_new_chat=True, chat__full_name="a"), message(1, NOON, chat__full_name="b")]
        oracle = run(records, [setting("wh", "1h")], Rules(max_age_ms=0, part_messages=1))
        chats = [json.loads(post.body)["chat"] for post in oracle.posts]
        self.assertEqual([(chat["full_name"], chat["is_new_chat"]) for chat in chats], [("a", True), ("b", False)])

    def test_webhooks_share_the_cuts_and_may_miss_a_part(self) -> None:
        records = [message(0, NOON), message(1, NOON + 1_000), message(2, NOON + 10_000), message(3, NOON + 11_000)]
        webhooks = [setting("all", "1h"), setting("late", "1h", offset=1, at=NOON + 1_000)]
        oracle = run(records, webhooks, Rules(max_age_ms=0, part_messages=3))
        self.assertEqual(
            [(post.webhook_id, post.part, message_ids(post)) for post in oracle.posts],
            [("all", 1, ["m0", "m1", "m2"]), ("all", 2, ["m3"]), ("late", 1, ["m2"]), ("late", 2, ["m3"])],
        )


class Settings(unittest.TestCase):
    def test_a_change_counts_from_five_seconds_after_it(self) -> None:
        records = [message(0, NOON + 4_999), message(1, NOON + 5_000)]
        oracle = run(records, [setting("wh", "none", at=NOON)])
        self.assertEqual(bundles(oracle), [["m1"]])
        self.assertEqual(oracle.records, {"unknown_workspace": 1, "wanted": 1})

    def test_settings_count_in_the_order_of_the_log(self) -> None:
        webhooks = [setting("wh", "1h", at=NOON + 1_000), setting("wh", "none", offset=1, at=NOON)]
        records = [message(0, NOON + 5_500), message(1, NOON + 6_000)]
        oracle = run(records, webhooks)
        self.assertEqual([(post.granularity, message_ids(post)) for post in oracle.posts], [("none", ["m1"])])

    def test_a_workspace_is_known_once_it_had_a_webhook(self) -> None:
        webhooks = [setting("wh", "1h", at=NOON), tombstone("wh", 1, NOON + MINUTE)]
        oracle = run([message(0, NOON), message(1, NOON + 5 * MINUTE)], webhooks)
        self.assertEqual(oracle.records, {"unknown_workspace": 1, "no_enabled_webhook": 1})

    def test_a_new_granularity_leaves_open_windows_alone(self) -> None:
        webhooks = [setting("wh", "6h"), setting("wh", "1h", offset=1, at=NOON + HOUR), setting("wh", "none", offset=2, at=NOON + 2 * HOUR)]
        records = [message(index, NOON + index * HOUR + 10_000) for index in range(4)]
        found = [(post.granularity, post.window_start, message_ids(post)) for post in run(records, webhooks).posts]
        self.assertEqual(
            found,
            [("1h", "2021-02-24T13:00:00Z", ["m1"]), ("6h", "2021-02-24T12:00:00Z", ["m0"]), ("none", None, ["m2"]), ("none", None, ["m3"])],
        )

    def test_the_owners_disabling_drops_open_windows(self) -> None:
        webhooks = [
            setting("wh", "1h"), setting("wh", "1h", offset=1, at=NOON + 10 * MINUTE, enabled=False),
            setting("wh", "1h", offset=2, at=NOON + 20 * MINUTE),
        ]
        records = [message(0, NOON - HOUR), message(1, NOON + MINUTE), message(2, NOON + 15 * MINUTE), message(3, NOON + 25 * MINUTE)]
        oracle = run(records, webhooks)
        self.assertEqual(bundles(oracle), [["m0"], ["m3"]])
        self.assertEqual(oracle.webhooks["wh"], {"sent": 2, "posts": 2, "dropped_by_owner": 1})
        self.assertEqual(oracle.records, {"wanted": 3, "no_enabled_webhook": 1})

    def test_what_arrived_in_a_life_is_dropped_from_its_end_on(self) -> None:
        history = History([
            setting("wh", "1h"), setting("wh", "6h", offset=1, at=NOON), setting("wh", "6h", offset=2, at=NOON + MINUTE, enabled=False),
            setting("wh", "6h", offset=3, at=NOON + 2 * MINUTE), tombstone("wh", 4, NOON + 3 * MINUTE), setting("wh", "1h", offset=5, at=NOON + 4 * MINUTE),
        ])
        ends = [history.end_of_life("wh", NOON + seconds * 1_000) for seconds in (-10, 30, 64, 125, 184, 250, 1_000)]
        off, gone = NOON + MINUTE + SETTLE_MS, NOON + 3 * MINUTE + SETTLE_MS
        self.assertEqual(ends, [off, off, off, gone, gone, None, None])

    def test_deleting_and_moving_to_another_workspace_drop_open_windows_too(self) -> None:
        moved = setting("wh", "1h", offset=1, at=NOON + MINUTE, workspace_id="other")
        for change in ([tombstone("wh", 1, NOON + MINUTE)], [moved, setting("wh", "1h", offset=2, at=NOON + MINUTE)]):
            oracle = run(
                [message(0, NOON), message(1, NOON + 10 * MINUTE)],
                [setting("wh", "1h"), *change, setting("wh", "1h", offset=3, at=NOON + 2 * MINUTE)],
            )
            self.assertEqual(bundles(oracle), [["m1"]])

    def test_a_part_that_was_sealed_before_the_disabling_was_sent(self) -> None:
        webhooks = [setting("wh", "1h"), setting("wh", "1h", offset=1, at=NOON + 10 * MINUTE, enabled=False)]
        records = [message(index, NOON + index * 1_000) for index in range(3)]
        self.assertEqual(bundles(run(records, webhooks, Rules(max_age_ms=0, part_messages=2))), [["m0", "m1"]])

    def test_the_same_settings_again_change_nothing(self) -> None:
        webhooks = [setting("wh", "1h", offset=index, at=index * 1_000) for index in range(3)]
        self.assertEqual(bundles(run([message(0, NOON)], webhooks)), [["m0"]])

    def test_unusable_settings_leave_the_former_in_force(self) -> None:
        for changes in (
            {"url": "ftp://x/"}, {"url": "/relative"}, {"url": "http://"}, {"granularity": "2h"}, {"success": "201"}, {"enabled": "yes"},
            {"owner": None}, {"owner": {"full_name": "x"}}, {"max_per_second": 0}, {"secrets": ["whsec_YQ=="] * 3},
            {"secrets": ["topsecret"]}, {"headers": {"a": 1}},
            {"workspace_id": ""},
        ):
            unusable = setting("wh", "none", offset=1, at=1_000)
            unusable["value"] = json.dumps(json.loads(unusable["value"]) | changes)
            oracle = run([message(0, NOON)], [setting("wh", "1h"), unusable])
            self.assertEqual([post.granularity for post in oracle.posts], ["1h"], changes)
            self.assertEqual(oracle.summary()["unusable_settings"], 1)

    def test_optional_settings_have_defaults(self) -> None:
        value = {"webhook_id": "wh", "workspace_id": "ws", "url": "https://h.example", "owner": {"full_name": "", "email": ""}}
        for extra in ({}, dict.fromkeys(("label", "enabled", "granularity", "success", "max_per_second", "secrets", "headers", "version"))):
            record = {"partition": 0, "offset": 0, "timestamp": 0, "key": "wh", "value": json.dumps(value | extra)}
            (post,) = run([message(0, NOON)], [record]).posts
            self.assertEqual((post.granularity, post.path), ("none", "/"))

    def test_every_wanted_message_is_accounted_for(self) -> None:
        options = generate.parse_arguments(
            ["--seed", "5", "--events", "3000", "--chats", "20", "--now", str(NOON), "--span", str(3 * HOUR)]
        )
        records = [stored(line.decode(), index, NOON + index * 3 * HOUR // 3_000) for index, line in enumerate(generate.lines(options))]
        webhooks = [setting(f"wh-{name}", name, workspace_id="ws-1") for name in ("none", "1h", "6h", "24h")]
        webhooks += [setting("wh-1h", "1h", offset=9, at=NOON + HOUR // 2, workspace_id="ws-1", enabled=False)]
        oracle = run(records, webhooks, Rules(part_messages=100), closed_until=NOON + 6 * HOUR)
        wanted = oracle.records["wanted"]
        for name in ("none", "6h", "24h"):
            counts = oracle.webhooks[f"wh-{name}"]
            self.assertEqual(counts["sent"] + counts["duplicate"] + counts["open"], wanted)
            self.assertEqual(counts["sent"], sum(post.messages for post in oracle.posts if post.webhook_id == f"wh-{name}"))
        self.assertGreater(oracle.webhooks["wh-1h"]["dropped_by_owner"], 0)
        self.assertEqual(sum(oracle.records.values()), 3_000)


class Generated(unittest.TestCase):
    def lines(self, *arguments: str) -> list[bytes]:
        return generate.lines(generate.parse_arguments(["--now", str(NOON), *arguments]))

    def test_the_same_options_give_the_same_lines(self) -> None:
        self.assertEqual(self.lines("--seed", "3"), self.lines("--seed", "3"))
        self.assertNotEqual(self.lines("--seed", "3"), self.lines("--seed", "4"))

    def test_without_poison_every_line_can_be_processed(self) -> None:
        lines = self.lines("--events", "5000", "--workspaces", "3")
        found = [read_event(line) for line in lines]
        self.assertTrue(all(b"\n" not in line for line in lines))
        self.assertEqual({entry.reason for entry in found if isinstance(entry, Skip)}, {"attachments", "empty_text"})
        self.assertGreater(sum(isinstance(entry, Event) for entry in found), 4_000)

    def test_every_kind_of_poison_is_a_dead_letter(self) -> None:
        generator = generate.Generator(generate.parse_arguments(["--now", str(NOON)]))
        for number, kind in enumerate(generate.POISON):
            for attempt in range(5):
                with self.assertRaises(DeadLetter, msg=kind):
                    read_event(generator.poison(number * 5 + attempt, kind))

    def test_poison_stands_among_the_events(self) -> None:
        lines = self.lines("--events", "100", "--poison", "50")
        records = [stored(None, index, NOON) | {"value_base64": base64.b64encode(line).decode()} for index, line in enumerate(lines)]
        self.assertEqual(run(records, []).records["dead_letter"], 50)


class Comparing(unittest.TestCase):
    def setUp(self) -> None:
        records = [message(index, NOON + index * HOUR // 2, chat__chat_id=index % 2) for index in range(12)]
        self.posts = run(records, [setting("a", "1h"), setting("b", "none")], Rules(max_age_ms=0, part_messages=1)).posts
        self.received = [self._request(post) for post in self.posts]

    def _request(self, post: Post, status: int = 200) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/json; charset=utf-8", "user-agent": "Bundlehook/0.1.0", "webhook-id": json.dumps(post.identity),
            "webhook-timestamp": "1614168000",
        } | ({"bundlehook-part": str(post.part)} if post.part else {})
        return {"received_at": "", "method": "POST", "path": post.path, "headers": headers, "body": post.body, "status": status}

    def compare(self, *arguments: str) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            names = [str(Path(folder) / name) for name in ("expected", "received")]
            with open(names[0], "w", encoding="utf-8", newline="\n") as file:
                expected.write_posts(self.posts, file)
            Path(names[1]).write_text("".join(json.dumps(entry) + "\n" for entry in self.received), encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = compare.main(["--expected", names[0], "--received", names[1], *arguments])
        return code, out.getvalue()

    def assert_differs(self, kind: str, *arguments: str) -> None:
        code, text = self.compare(*arguments)
        self.assertEqual(code, 1, text)
        self.assertIn(f"{kind}: ", text)

    def test_equal(self) -> None:
        self.assertEqual(self.compare()[0], 0)

    def test_a_failed_attempt_before_the_success_is_no_difference(self) -> None:
        self.received.insert(0, self._request(self.posts[0], 503))
        self.assertEqual(self.compare()[0], 0)

    def test_a_failed_attempt_under_another_id_is_a_difference(self) -> None:
        self.received.insert(0, self._request(self.posts[0], 503))
        self.received[0]["headers"]["webhook-id"] = "other"
        self.assert_differs("ids")

    def test_a_missing_post(self) -> None:
        self.received.pop()
        self.assert_differs("missing")

    def test_another_byte(self) -> None:
        self.received[0]["body"] = self.received[0]["body"].replace("text", "tent")
        self.assert_differs("missing")
        self.assert_differs("unexpected")

    def test_another_path(self) -> None:
        self.received[0]["path"] = "/elsewhere"
        self.assert_differs("unexpected")

    def test_a_repeat_counts_unless_it_is_allowed(self) -> None:
        self.received.append(self.received[0])
        self.assert_differs("received too often")
        self.assertEqual(self.compare("--allow-repeats")[0], 0)

    def test_a_repeat_under_another_id_always_counts(self) -> None:
        self.received.append(json.loads(json.dumps(self.received[0])))
        self.received[-1]["headers"]["webhook-id"] = "other"
        self.assert_differs("received too often", "--allow-repeats")

    def test_order_within_a_chat(self) -> None:
        self.received[0], self.received[1] = self.received[1], self.received[0]
        self.assert_differs("out of order")

    def test_equal_posts_of_two_granularities_come_in_the_order_of_their_messages(self) -> None:
        one, two = [post for post in self.posts if (post.webhook_id, post.chat_id) == ("a", "0")][:2]
        again = dataclasses.replace(one, granularity="6h", offset=two.offset + 1, identity=["again"])
        self.posts = [again, one, two]
        self.received = [self._request(post) for post in (one, two, again)]
        code, text = self.compare()
        self.assertEqual(code, 0, text)

    def test_order_between_chats_and_webhooks_is_free(self) -> None:
        self.received.sort(key=lambda entry: entry["path"], reverse=True)
        self.assertEqual(self.compare()[0], 0)

    def test_two_posts_under_one_id(self) -> None:
        self.received[0]["headers"]["webhook-id"] = self.received[1]["headers"]["webhook-id"]
        self.assert_differs("ids")

    def test_a_wrong_header(self) -> None:
        self.received[0]["headers"]["Content-Type"] = "application/json"
        self.assert_differs("headers")

    def test_a_wrong_part(self) -> None:
        self.posts = run([message(0, NOON), message(1, NOON)], [setting("a", "1h")], Rules(max_age_ms=0, part_messages=1)).posts
        self.received = [self._request(post) for post in self.posts]
        self.assertEqual(self.compare()[0], 0)
        del self.received[1]["headers"]["bundlehook-part"]
        self.assert_differs("headers")

    def test_paths_can_be_left_out(self) -> None:
        self.received = [entry for entry in self.received if entry["path"] != "/a"]
        self.assertEqual(self.compare("--ignore-path", "/a")[0], 0)

    def test_a_message_sent_again_after_ten_minutes_keeps_its_id(self) -> None:
        records = [message(0, NOON), message(0, NOON + HOUR, offset=1, sent_at=NOON)]
        self.posts = run(records, [setting("b", "none")]).posts
        self.received = [self._request(post) for post in self.posts]
        self.assertEqual(len(self.received), 2)
        self.assertEqual(self.compare()[0], 0)


if __name__ == "__main__":
    unittest.main()
