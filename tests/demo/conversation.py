"""The conversations of the demonstration: who writes what, in which chat."""

from __future__ import annotations

from datetime import datetime, timezone

ACCOUNT = {"full_name": "Amnon Haha", "email": "amnon@acme.example", "phone": "+972500000000"}

_AMNON = {"full_name": "Amnon Haha", "phone": "+972500000000"}
_JOHN = {"full_name": "John Doe", "phone": "+972540000000"}
_JANE = {"full_name": "Jane Smith", "phone": "+972550000000"}

_CHATS = {
    "john": {"full_name": "John Doe", "chat_id": "10010001", "is_group": False, "phone": "+972540000000"},
    "team": {"full_name": "Team ✨", "chat_id": "10010002", "is_group": True, "phone": ""},
}

# Chat, sender, recipient, text; None as text is a photo, which does not count.
_LINES = [
    ("john", _JOHN, _AMNON, "Hi! How are you? 🙂"),
    ("john", _AMNON, _JOHN, "I am fine,\nhow are <you> & yours?"),
    ("team", _JANE, {"full_name": "Team ✨", "phone": ""}, "Meeting at 5"),
    ("john", _JOHN, _AMNON, "All well. Do you still sell the blue ones?"),
    ("john", _JOHN, _AMNON, None),
    ("john", _AMNON, _JOHN, "Yes! How many do you need?"),
    ("team", _AMNON, {"full_name": "Team ✨", "phone": ""}, "I may be 5 minutes late"),
    ("john", _JOHN, _AMNON, "Three. And one for my sister 👩‍👧"),
    ("team", _JANE, {"full_name": "Team ✨", "phone": ""}, "No problem"),
    ("john", _AMNON, _JOHN, "Done. They leave today."),
    ("john", _JOHN, _AMNON, "Wonderful, thank you!"),
    ("team", _JANE, {"full_name": "Team ✨", "phone": ""}, "Room 3 then"),
]


def events(workspace_id: str) -> list[dict]:
    """The conversation as message events; whoever sends them stamps them with `stamp`."""
    return [_event(workspace_id, number, *line) for number, line in enumerate(_LINES, start=1)]


def counts(event: dict) -> bool:
    """True if the message is a text, so that webhooks get it."""
    return "attachments" not in event["message"]


def stamp(event: dict) -> dict:
    """The event with the present as its message's timestamp."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+0000")
    return {**event, "message": {**event["message"], "timestamp": now}}


def _event(workspace_id: str, number: int, chat: str, sender: dict, recipient: dict, text: str | None) -> dict:
    message = {
        "direction": "sent" if sender is _AMNON else "received",
        "message_id": f"m-{number:04}",
        "sender": sender,
        "recipient": recipient,
        "text": text if text is not None else "See the photo",
    }
    if text is None:
        message["attachments"] = [{"filename": "photo.jpg", "mimetype": "image/jpeg", "size": 123456}]
    details = {
        **_CHATS[chat],
        "responsible_name": "Rina",
        "responsible_email": "rina@acme.example",
        "chat_url": f"https://crm.example/chat/{_CHATS[chat]['chat_id']}/messages/",
        "is_new_chat": number == 1,
    }
    return {"workspace_id": workspace_id, "whatsapp_account": ACCOUNT, "chat": details, "message": message}
