"""The two POST bodies and the aggregation, by the contract."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from events import Event
from instants import minute_text

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_LINE_END = re.compile("\r\n|\r|\n")
# Category Cc, whole.
_CONTROLS = dict.fromkeys([*range(0x00, 0x20), *range(0x7F, 0xA0)])


def compact(value: Any) -> str:
    """JSON without white space, escaped only where JSON demands it."""
    return _ENCODER.encode(value)


def object_bytes(event: Event) -> int:
    """Size of a message object, for the limit of a part."""
    return len(compact(event.message).encode())


def single_body(event: Event) -> str:
    """Body for granularity `none`."""
    return compact({"whatsapp_account": event.account, "chat": event.chat, "message": event.message})


def aggregated_body(arrived: Sequence[Event], product: str) -> str:
    """Body of a bundle, from its messages in the order of their arrival."""
    # Python's sort keeps the order of what is equal, here the order of arrival.
    events = sorted(arrived, key=lambda event: event.sent_at_ns)
    chat = arrived[-1].chat | {"is_new_chat": any(event.chat["is_new_chat"] for event in arrived)}
    return compact({
        "whatsapp_account": arrived[-1].account,
        "chat": chat,
        "messages": [event.message for event in events],
        "first_message_timestamp": events[0].message["timestamp"],
        "last_message_timestamp": events[-1].message["timestamp"],
        "aggregation": aggregation(events, chat["chat_url"], product),
    })


def aggregation(events: Sequence[Event], chat_url: str, product: str) -> str:
    """The bundle as HTML for a CRM note, from its messages in their order."""
    lines = [_line(event) for event in events]
    link = next(filter(_is_web_link, (events[0].permalink, chat_url)), None)
    if link is not None:
        lines.append(f"Click <a href='{escape(link)}'>here</a> to open the conversation in {escape(product)}")
    return "<br/>".join(lines)


def _line(event: Event) -> str:
    name = escape(event.message["sender"]["full_name"])
    return f"from {name} on {minute_text(event.sent_at_ns)}: {escape(event.message['text'])}"


def _is_web_link(link: str) -> bool:
    scheme, slashes, rest = link.partition("://")
    return scheme.lower() in ("http", "https") and bool(slashes and rest)


def escape(text: str) -> str:
    """A name, text, link or product name as HTML: entities, line ends as `<br/>`, no control characters."""
    return _LINE_END.sub("<br/>", text.translate(_ENTITIES)).translate(_CONTROLS)
