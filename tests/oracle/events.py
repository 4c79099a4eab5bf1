"""Reads message events as the contract has them: an event, a skip, or a dead letter.

A record is examined in this order, and nothing later is asked once something is decided: the value is there, is
UTF-8, is JSON, is an object, `message` is an object, `attachments`, `text`, then every other field. So a record that
is skipped needs none of its other fields, and what stands in a field that is not named in the contract is never
looked at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from instants import parse_timestamp, wire_timestamp

MAX_ID_BYTES = 128
# Unicode's White_Space; Python's `str.isspace` also takes U+001C to U+001F.
WHITE_SPACE = frozenset(
    map(chr, [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000])
)


class DeadLetter(Exception):
    """A record that can't be processed, with its reason as in the headers of a dead letter."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Skip:
    """A message that does not count, with the reason."""

    reason: str


@dataclass(frozen=True)
class Event:
    """A message that counts unless it is too old. Dictionaries are in the order in which they are written."""

    workspace_id: str
    account: dict[str, str]
    chat: dict[str, Any]
    message: dict[str, Any]
    sent_at_ns: int
    permalink: str

    @property
    def chat_id(self) -> str:
        return str(self.chat["chat_id"])

    @property
    def message_id(self) -> str:
        return str(self.message["message_id"])


class Number:
    """A JSON number, as written; numbers are only ever ids here."""

    def __init__(self, text: str) -> None:
        self.text = text


class Object(dict[str, Any]):
    """A JSON object that remembers which of its names occur twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: frozenset[str] = frozenset()
        if len(self) != len(pairs):
            names = [name for name, _ in pairs]
            self.repeated = frozenset(name for name in names if names.count(name) > 1)


def parse_json(value: bytes | str) -> Any:
    """The JSON document of a record's value; numbers as `Number`, objects as `Object`."""
    try:
        text = value if isinstance(value, str) else value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DeadLetter("invalid_utf8", str(error)) from None
    try:
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse, object_pairs_hook=Object)
    except ValueError as error:
        raise DeadLetter("invalid_json", str(error)) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def read_event(value: bytes | str | None) -> Event | Skip:
    """What a record's value says. Raises DeadLetter where it can't be processed."""
    if value is None:
        raise DeadLetter("null_value", "the record has no value")
    root = parse_json(value)
    if not isinstance(root, Object):
        raise DeadLetter("invalid_field", "not an object")
    message = Reader(root, "").object("message")
    return _skip(message) or _event(Reader(root, ""), message)


def _skip(message: Reader) -> Skip | None:
    attachments = message.optional("attachments", list)
    if attachments:
        return Skip("attachments")
    text = message.optional("text", str)
    if text is None or is_blank(text):
        return Skip("empty_text")
    return None


def is_blank(text: str) -> bool:
    """Whether a text is empty or only white space."""
    return all(char in WHITE_SPACE for char in text)


def _event(root: Reader, message: Reader) -> Event:
    workspace_id = root.id("workspace_id")
    account = _account(root.object("whatsapp_account"))
    chat = _chat(root.object("chat"))
    sent_at_ns = message.timestamp("timestamp")
    return Event(
        workspace_id=workspace_id,
        account=account,
        chat=chat,
        message={
            "direction": message.one_of("direction", ("sent", "received")),
            "timestamp": wire_timestamp(sent_at_ns),
            "message_id": message.id("message_id"),
            "sender": _party(message.object("sender")),
            "recipient": _party(message.object("recipient")),
            "text": message.required("text", str),
        },
        sent_at_ns=sent_at_ns,
        permalink=message.optional("permalink", str) or "",
    )


def _account(account: Reader) -> dict[str, str]:
    return {
        "full_name": account.required("full_name", str),
        "email": account.required("email", str),
        "phone": account.text_or_null("phone"),
    }


def _chat(chat: Reader) -> dict[str, Any]:
    return {
        "full_name": chat.required("full_name", str),
        "responsible_name": chat.text_or_null("responsible_name"),
        "responsible_email": chat.text_or_null("responsible_email"),
        "chat_url": chat.required("chat_url", str),
        "chat_id": chat.id("chat_id", integer=True),
        "is_new_chat": chat.required("is_new_chat", bool),
        "is_group": chat.required("is_group", bool),
        "phone": chat.text_or_null("phone"),
    }


def _party(party: Reader) -> dict[str, str]:
    return {"full_name": party.required("full_name", str), "phone": party.text_or_null("phone")}


class Reader:
    """Fields of one object; every method raises DeadLetter with the field's path."""

    def __init__(self, fields: Object, path: str) -> None:
        self._fields = fields
        self._path = path

    def optional(self, name: str, kind: type) -> Any:
        """The field, or None where it is missing or null."""
        if name in self._fields.repeated:
            raise self._invalid(name, "occurs twice")
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise self._invalid(name, f"is no {kind.__name__}")
        if isinstance(value, str) and _has_lone_surrogate(value):
            raise DeadLetter("invalid_json", f"`{self._path}{name}` holds half a surrogate pair")
        return value

    def required(self, name: str, kind: type) -> Any:
        """The field, which must be neither missing nor null."""
        value = self.optional(name, kind)
        if value is None:
            raise DeadLetter("missing_field", f"`{self._path}{name}` is missing")
        return value

    def text_or_null(self, name: str) -> str:
        """A text that must be there, where null reads as empty."""
        if name not in self._fields:
            raise DeadLetter("missing_field", f"`{self._path}{name}` is missing")
        return self.optional(name, str) or ""

    def object(self, name: str) -> Reader:
        """An object that must be there."""
        return Reader(self.required(name, Object), f"{self._path}{name}.")

    def id(self, name: str, integer: bool = False) -> str:
        """An id of 1 to 128 bytes; an integer, where allowed, reads as its digits."""
        value = self.required(name, object)
        if integer and isinstance(value, Number):
            return self._integer(name, value.text)
        value = str(self.required(name, str))
        if not 1 <= len(value.encode()) <= MAX_ID_BYTES:
            raise self._invalid(name, f"is not 1 to {MAX_ID_BYTES} bytes long")
        return value

    def _integer(self, name: str, text: str) -> str:
        digits = text.removeprefix("-")
        # The length first: Python refuses to convert thousands of digits.
        if not digits.isdigit() or text == "-0" or len(digits) > 20 or not -(2**63) <= int(text) < 2**64:
            raise self._invalid(name, "is no integer of 64 bits")
        return text

    def timestamp(self, name: str) -> int:
        """A timestamp in nanoseconds since 1970."""
        instant = parse_timestamp(self.required(name, str))
        if instant is None:
            raise self._invalid(name, "is no timestamp")
        return instant

    def one_of(self, name: str, values: tuple[str, ...]) -> str:
        """One of a few texts."""
        value = str(self.required(name, str))
        if value not in values:
            raise self._invalid(name, f"is none of {values}")
        return value

    def _invalid(self, name: str, problem: str) -> DeadLetter:
        return DeadLetter("invalid_field", f"`{self._path}{name}` {problem}")


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
