#!/usr/bin/env python3
"""Writes message events as they come in: realistic, and as nasty as the contract allows.

    generate.py --seed 1 --events 1000 --chats 50 --workspaces 2 --out events.jsonl

One JSON object a line, in the order of arrival, the same for the same options (`--now` included). A few chats get most
of the messages. Without `--poison` every line can be processed, though not every message counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from instants import NS_PER_MS, wire_timestamp

Record = dict[str, Any]

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

NAMES = [
    "John Doe", "Jane Smith", "Zoë Müller", "José García", "Łukasz Żółć", "O'Brien & Sons <ltd>", '"The Boss"', "",
    "שרה כהן", "محمد علي", "\u202eoverride\u202c", "张伟", "山田 太郎", "a\u0301 combining", "Ａｌｉｃｅ", "𝒥𝑜𝒽𝓃",
    "👩‍👩‍👧‍👦 Family", "Team ✨", "🏳️‍🌈", "<script>alert('name')</script>", "'; DROP TABLE chats; --", "back\\slash/",
    "Line\r\nbreak", "Line\nfeed", "Carriage\rreturn", "Tab\tstop", "Bell\u0007", "Nul\u0000", "Delete\u007f",
    "Next\u0085line", "\u2028separator\u2029", "zero\u200bwidth", "\ufeffmark", "{{mustache}} ${dollar} %s", "&amp; &lt;",
]
TEXTS = [
    "Hi! How are you? 🙂", "I am fine,\nhow are <you> & yours?", "ok", "👍", "🙈🙉🙊", "👨‍👩‍👧‍👦 ❤️ 🇮🇱", "שלום, מה שלומך?",
    "مرحبا كيف حالك", "\u200fright to left\u200e", "你好，世界", "नमस्ते", "e\u0301\u0327", "  leading and trailing  ",
    "\n\nlines\r\nand\rmore\n",
    "<script>alert(document.cookie)</script>", "<br/>&lt;br/&gt;&#39;", "it's \"quoted\" & 'done'", "</a><a href='javascript:x'>",
    "https://example.com/?a=1&b=2#c", "back\\slash \\n \\u0041 /", "controls \u0000\u0001\u0008\u000b\u000c\u001b\u001f\u007f end",
    "c1 \u0080\u0085\u009f end", "\u2028line\u2029paragraph", "tab\tseparated\tvalues", "\u200b", "\ufeff", "\u001c", "\uffff\ufffe",
    "0", "null", "false", "[]", '{"text":"json"}', "\U0010ffff", "＜fullwidth＞", "line one<br/>line two", "%00%0a", "ends with \\",
]
WORDS = "the invoice is ready please call me back tomorrow about order number and thank you very much see you later ok".split()
BLANK_TEXTS = ["", " ", "\n", "\r\n\t ", "\u00a0", "\u0085", "\u2003\u3000", "\u2028\u2029", "\u1680\u202f\u205f"]
CHAT_URLS = ["", "/relative/chat", "javascript:alert(1)", "ftp://files.example/chat"]
PERMALINKS = [
    "", "/relative", "javascript:alert(1)", "ftp://files.example/1", " https://spaced.example/", "https:/one-slash.example",
    "//no-scheme.example/",
]
ODD_LINKS = [
    "HTTPS://UPPER.example/M", "http://plain.example/?a='1'&b=\"2\"", "https://crm.example/<m>", "https://crm.example/line\nbreak\u0007",
]
UNKNOWN_FIELDS: list[Any] = [
    None, 0, -1.5, "", "text", [], {}, [[[[1]]]], {"text": "not this one", "chat": {"chat_id": 1}}, 12345678901234567890123, "\u0000",
]
# Valid JSON that some readers refuse although the field is none of theirs; put in after the rest is written.
RAW_UNKNOWN = {"@huge@": "1e400", "@half@": '"\\ud83d"', "@deep@": "[" * 60 + "]" * 60}


@dataclass
class Chat:
    """A chat with what its events have in common."""

    workspace_id: str
    number: int
    is_group: bool
    name: str
    responsible: str | None
    phone: str | None
    url: str
    seen: bool = False


class Generator:
    """Makes events from a seed; each method draws from the same random sequence."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._random = random.Random(options.seed)
        self._recent: deque[Record] = deque(maxlen=20)
        self._earlier: list[Record] = []
        self._chats = [self._chat(index) for index in range(options.chats)]
        self._weights = list(accumulate(1 / (rank + 1) ** options.skew for rank in range(options.chats)))

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _chat(self, index: int) -> Chat:
        workspace = f"ws-{index % self._options.workspaces + 1}"
        # Workspaces share some chat ids: a chat is identified by both.
        number = 10_000_000 + index // self._options.workspaces
        is_group = self._chance(0.2)
        return Chat(
            workspace_id=workspace,
            number=number if self._chance(0.9) else 120_363_000_000_000_000 + index,
            is_group=is_group,
            name=self._random.choice(NAMES),
            responsible=None if self._chance(0.2) else self._random.choice(NAMES),
            phone=self._random.choice([None, ""]) if is_group else f"+9725{index:08}",
            url=f"https://crm.example/chat/{number}/messages/" if self._chance(0.9) else self._random.choice(CHAT_URLS + ODD_LINKS),
        )

    def event(self, index: int) -> Record:
        """The next event."""
        record = self._repeat() if self._chance(0.03) and self._recent else self._fresh(index)
        self._remember(record)
        return record

    def _remember(self, record: Record) -> None:
        self._recent.append(record)
        if len(self._earlier) < 2_000:
            self._earlier.append(record)
        elif self._chance(0.05):
            self._earlier[self._random.randrange(2_000)] = record

    def _repeat(self) -> Record:
        """An earlier message again, unchanged or with other content under the same id."""
        former = self._random.choice(list(self._recent) if self._chance(0.7) else self._earlier)
        record = copy.deepcopy(former)
        if self._chance(0.5):
            record["message"]["text"] = self._text() + " (again)"
            record["chat"]["is_new_chat"] = self._chance(0.3)
            record["chat"]["full_name"] = self._random.choice(NAMES)
        return record

    def _fresh(self, index: int) -> Record:
        chat = self._random.choices(self._chats, cum_weights=self._weights)[0]
        self._change(chat)
        is_new, chat.seen = not chat.seen or self._chance(0.001), True
        account = {"full_name": self._random.choice(NAMES), "email": "amnon@acme.example", "phone": self._phone("+972500000000")}
        record = {
            "workspace_id": chat.workspace_id if not self._chance(0.01) else f"ws-unknown-{self._random.randrange(3)}",
            "whatsapp_account": account,
            "chat": self._chat_object(chat, is_new),
            "message": self._message(index, chat, account),
        }
        if self._chance(0.05):
            self._add_unknown_fields(record)
        return record

    def _change(self, chat: Chat) -> None:
        if self._chance(0.02):
            chat.name = self._random.choice(NAMES)
        if self._chance(0.02):
            chat.responsible = self._random.choice([None, "", *NAMES])

    def _phone(self, phone: str | None) -> str | None:
        return phone if self._chance(0.97) else self._random.choice([None, ""])

    def _chat_object(self, chat: Chat, is_new: bool) -> Record:
        return {
            "full_name": chat.name,
            "responsible_name": chat.responsible,
            "responsible_email": chat.responsible and "rina@acme.example",
            "chat_url": chat.url,
            "chat_id": chat.number if self._chance(0.3) else str(chat.number),
            "is_new_chat": is_new,
            "is_group": chat.is_group,
            "phone": chat.phone,
        }

    def _message(self, index: int, chat: Chat, account: Record) -> Record:
        them = {"full_name": chat.name, "phone": chat.phone}
        us = {"full_name": account["full_name"], "phone": account["phone"]}
        if chat.is_group and self._chance(0.8):
            them = {"full_name": self._random.choice(NAMES), "phone": f"+97254{self._random.randrange(10**7):07}"}
        is_sent = self._chance(0.45)
        message = {
            "direction": "sent" if is_sent else "received",
            "timestamp": self._timestamp(index),
            "message_id": self._message_id(index),
            "sender": us if is_sent else them,
            "recipient": them if is_sent else us,
        }
        self._add_text(message)
        self._add_permalink(message)
        self._add_attachments(message)
        return message

    def _message_id(self, index: int) -> str:
        name = f"m-{self._options.seed}-{index}"
        if self._chance(0.01):
            return self._random.choice([name.ljust(128, "x"), f"{name} é\"'\u2028", f"{name}/{{}}:|\u0001", name + "ש" * 50])
        return name

    def _add_text(self, message: Record) -> None:
        if self._chance(0.96):
            message["text"] = self._text()
        elif self._chance(0.7):
            message["text"] = self._random.choice([None, *BLANK_TEXTS])

    def _text(self) -> str:
        if self._chance(0.5):
            return " ".join(self._random.choices(WORDS, k=self._random.randrange(1, 25)))
        if self._chance(0.95):
            return self._random.choice(TEXTS)
        return self._long_text()

    def _long_text(self) -> str:
        length = int(10 ** self._random.uniform(2.5, 4.8 if self._chance(0.1) else 3.5))
        return (self._random.choice(["& ", "long <text> ", "🙂", "ש", "\n", "a"]) * length)[:length] + "."

    def _add_permalink(self, message: Record) -> None:
        if self._chance(0.7):
            message["permalink"] = f"https://crm.example/permalink/{self._random.getrandbits(64):016x}/"
        elif self._chance(0.4):
            message["permalink"] = self._random.choice([None, *PERMALINKS, *ODD_LINKS])

    def _add_attachments(self, message: Record) -> None:
        if self._chance(0.04):
            message["attachments"] = [{"filename": "photo.jpg", "mimetype": "image/jpeg", "size": 123456}]
        elif self._chance(0.1):
            message["attachments"] = self._random.choice([None, []])

    def _add_unknown_fields(self, record: Record) -> None:
        place = self._random.choice([record, record["chat"], record["message"], record["message"]["sender"], record["whatsapp_account"]])
        place[self._random.choice(["extra", "Text", "chatId", "v", ""])] = self._random.choice([*UNKNOWN_FIELDS, *RAW_UNKNOWN])

    def _timestamp(self, index: int) -> str:
        now = self._options.now + self._options.span * index // max(1, self._options.events)
        return self.timestamp_text(now - self._age())

    def _age(self) -> int:
        """How long before its arrival a message was sent, in ms: seconds as a rule, up to a month, or below 0."""
        kind = self._random.random()
        if kind < 0.85:
            return self._random.randrange(0, 3_000)
        if kind < 0.93:
            return self._random.randrange(0, 50 * MINUTE_MS)
        if kind < 0.97:
            return self._random.randrange(0, 30 * HOUR_MS)
        if kind < 0.98:
            return self._random.randrange(8 * DAY_MS, 31 * DAY_MS)
        return -self._random.randrange(0, self._options.max_ahead + 1)

    def timestamp_text(self, sent_at_ms: int) -> str:
        """A timestamp in one of the forms that may come in, in some zone, with or without a fraction."""
        zone = self._random.choice([0, 0, 0, 120, 330, -480, -210, 765])
        date_time = wire_timestamp((sent_at_ms + zone * MINUTE_MS) * NS_PER_MS).removesuffix("+0000")
        digits = f"{sent_at_ms % 1_000:03}{self._random.randrange(10**9):09}"
        fraction = "." + digits[: self._random.choice([1, 3, 3, 6, 9, 12])] if self._chance(0.6) else ""
        sign = "-" if zone < 0 else "+"
        hours, minutes = divmod(abs(zone), 60)
        return self._random.choice([
            f"{date_time}{fraction}{sign}{hours:02}{minutes:02}",
            f"{date_time}{fraction}{sign}{hours:02}:{minutes:02}",
            f"{date_time}{fraction}Z" if zone == 0 else f"{date_time}{fraction}{sign}{hours:02}:{minutes:02}",
            f"{date_time.replace('T', ' ')}{fraction} {sign}{hours:02}{minutes:02}",
        ])

    def line(self, record: Record) -> bytes:
        """The event as JSON, written in one of the ways in which programs write it."""
        if self._chance(0.1):
            record = self._shuffled(record)
        separators = self._random.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
        text = json.dumps(record, ensure_ascii=self._chance(0.3), separators=separators)
        for mark, raw in RAW_UNKNOWN.items():
            text = text.replace(f'"{mark}"', raw)
        return text.encode()

    def _shuffled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = list(value)
        self._random.shuffle(names)
        return {name: self._shuffled(value[name]) for name in names}

    def poison(self, index: int, kind: str) -> bytes:
        """A record that can't be processed."""
        record = self._fresh(index)
        record["message"] |= {"text": "poison", "attachments": []}
        return POISON[kind](record)


def _json(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _without(*path: str) -> Callable[[Record], bytes]:
    def spoil(record: Record) -> bytes:
        place = record
        for name in path[:-1]:
            place = place[name]
        place.pop(path[-1], None)
        return _json(record)
    return spoil


def _with(*path: str, value: Any) -> Callable[[Record], bytes]:
    def spoil(record: Record) -> bytes:
        place = record
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return _json(record)
    return spoil


def _raw(spoil: Callable[[bytes], bytes]) -> Callable[[Record], bytes]:
    return lambda record: spoil(_json(record))


# What can be wrong with a record, by name; each makes a dead letter.
POISON: dict[str, Callable[[Record], bytes]] = {
    "no_json": _raw(lambda line: b"hello"),
    "cut_short": _raw(lambda line: line[: len(line) // 2]),
    "something_after": _raw(lambda line: line + b" {}"),
    "byte_order_mark": _raw(lambda line: b"\xef\xbb\xbf" + line),
    "no_number": _raw(lambda line: line[:-1] + b', "extra": NaN}'),
    "raw_control": _raw(lambda line: line.replace(b'"poison"', b'"a\tb"')),
    "bad_escape": _raw(lambda line: line.replace(b'"poison"', b'"\\x41"')),
    "half_a_pair": _raw(lambda line: line.replace(b'"poison"', b'"\\ud83d"')),
    "no_utf8": _raw(lambda line: line.replace(b'"poison"', b'"\xff\xfe"')),
    "overlong_utf8": _raw(lambda line: line.replace(b'"poison"', b'"\xc0\xaf"')),
    "same_name_twice": _raw(lambda line: line[:-1] + b', "workspace_id": "ws-1"}'),
    "array": lambda record: _json(list(record.values())),
    "text_at_root": lambda record: _json("hello"),
    "null_at_root": lambda record: _json(None),
    "no_workspace": _without("workspace_id"),
    "no_account": _without("whatsapp_account"),
    "no_account_phone": _without("whatsapp_account", "phone"),
    "no_chat": _without("chat"),
    "no_responsible_name": _without("chat", "responsible_name"),
    "no_is_group": _without("chat", "is_group"),
    "no_message": _without("message"),
    "no_sender_phone": _without("message", "sender", "phone"),
    "no_direction": _without("message", "direction"),
    "null_email": _with("whatsapp_account", "email", value=None),
    "null_chat_url": _with("chat", "chat_url", value=None),
    "null_sender": _with("message", "sender", value=None),
    "number_as_workspace": _with("workspace_id", value=7),
    "fraction_as_chat_id": _with("chat", "chat_id", value=1.5),
    "huge_chat_id": _with("chat", "chat_id", value=10**30),
    "text_as_flag": _with("chat", "is_new_chat", value="true"),
    "array_as_chat": _with("chat", value=["a", "b"]),
    "number_as_text": _with("message", "text", value=5),
    "object_as_attachments": _with("message", "attachments", value={"0": "photo"}),
    "other_direction": _with("message", "direction", value="Sent"),
    "object_as_direction": _with("message", "direction", value={"sent": None}),
    "date_only": _with("message", "timestamp", value="2024-01-08"),
    "no_zone": _with("message", "timestamp", value="2024-01-08T10:35:18"),
    "no_such_day": _with("message", "timestamp", value="2024-02-30T10:35:18Z"),
    "number_as_timestamp": _with("message", "timestamp", value=1614183929),
    "empty_message_id": _with("message", "message_id", value=""),
    "long_message_id": _with("message", "message_id", value="m" * 129),
    "long_id_in_bytes": _with("message", "message_id", value="ש" * 65),
}


def lines(options: argparse.Namespace) -> list[bytes]:
    """All lines, the invalid ones spread evenly among the others."""
    generator = Generator(options)
    found = [generator.line(generator.event(index)) for index in range(options.events)]
    kinds = list(POISON)
    for number in range(options.poison):
        poison = generator.poison(options.events + number, kinds[number % len(kinds)])
        found.insert((number + 1) * len(found) // (options.poison + 1), poison)
    return found


def _natural(text: str) -> int:
    if not text.isdigit():
        raise ValueError
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise ValueError
    return int(text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="same seed, same events (default: 1)")
    parser.add_argument("--events", type=_natural, default=1_000, help="how many (default: 1000)")
    parser.add_argument("--chats", type=_positive, default=50, help="over how many chats (default: 50)")
    parser.add_argument("--workspaces", type=_positive, default=1, help="of how many workspaces, ws-1 and on (default: 1)")
    parser.add_argument("--skew", type=float, default=1.0, help="0: all chats alike; higher: fewer get more (default: 1)")
    parser.add_argument("--now", type=int, default=int(time.time() * 1_000), help="when the first arrives, in ms since 1970 (default: now)")
    parser.add_argument("--span", type=_natural, default=0, help="ms between the first arrival and the last (default: 0)")
    parser.add_argument(
        "--max-ahead", type=_natural, default=7 * MINUTE_MS, help="how far in the future a timestamp may lie, in ms (default: 7 minutes)",
    )
    parser.add_argument("--poison", type=_natural, default=0, help="how many invalid records beside the events (default: 0)")
    parser.add_argument("--out", default="-", metavar="FILE", help="where they go (default: standard output)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line."""
    options = parse_arguments(arguments)
    data = b"".join(line + b"\n" for line in lines(options))
    if options.out == "-":
        sys.stdout.buffer.write(data)
    else:
        with open(options.out, "wb") as file:
            file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
