"""Points in time and durations.

A message's timestamp is kept in whole nanoseconds since 1970, everything of Kafka's in whole milliseconds. Dates are
computed by hand since Python's `datetime` knows neither year 0 nor nanoseconds.
"""

from __future__ import annotations

import re
from datetime import date

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
MS_PER_HOUR = 3_600_000

_DATE_TIME = r"(\d{4})-(\d\d)-(\d\d)%s(\d\d):(\d\d):(\d\d)(?:\.(\d+))?"
_FORMS = [
    re.compile(_DATE_TIME % "T" + r"([+-])(\d\d)(\d\d)", re.ASCII),
    re.compile(_DATE_TIME % "[Tt ]" + r"(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII),
    re.compile(_DATE_TIME % " " + r" ([+-])(\d\d)(\d\d)", re.ASCII),
]
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": MS_PER_HOUR, "d": 24 * MS_PER_HOUR}
_DAYS_BEFORE_1970 = date(1970, 1, 1).toordinal()
# The Gregorian calendar repeats after 400 years, so year 0 has the calendar of year 400.
_DAYS_IN_400_YEARS = 146_097


def parse_timestamp(text: str) -> int | None:
    """Nanoseconds since 1970 of a message's timestamp in one of its three forms; None if it is in none of them."""
    for form in _FORMS:
        match = form.fullmatch(text)
        if match:
            return _instant(*match.groups())
    return None


def _instant(
    year: str, month: str, day: str, hour: str, minute: str, second: str,
    fraction: str | None, sign: str | None, zone_hours: str | None, zone_minutes: str | None,
) -> int | None:
    days = _days(int(year), int(month), int(day))
    if days is None or int(hour) > 23 or int(minute) > 59 or int(second) > 60:
        return None
    zone = _zone_seconds(sign, zone_hours, zone_minutes)
    if zone is None:
        return None
    seconds = days * 86_400 + int(hour) * 3_600 + int(minute) * 60 + int(second) - zone
    if not _has_four_digit_year(seconds):
        return None
    return seconds * NS_PER_S + int((fraction or "")[:9].ljust(9, "0"))


def _days(year: int, month: int, day: int) -> int | None:
    """Days since 1970 of a date of the years 0 to 9999; None if there is no such date."""
    try:
        days = date(year or 400, month, day).toordinal() - _DAYS_BEFORE_1970
    except ValueError:
        return None
    return days if year else days - _DAYS_IN_400_YEARS


def _zone_seconds(sign: str | None, hours: str | None, minutes: str | None) -> int | None:
    if sign is None or hours is None or minutes is None:
        return 0
    if int(hours) > 23 or int(minutes) > 59:
        return None
    seconds = int(hours) * 3_600 + int(minutes) * 60
    return -seconds if sign == "-" else seconds


def _has_four_digit_year(seconds: int) -> bool:
    first = date(1, 1, 1).toordinal() - 366 - _DAYS_BEFORE_1970
    last = date(9999, 12, 31).toordinal() - _DAYS_BEFORE_1970
    return first <= seconds // 86_400 <= last


def _civil(seconds: int) -> tuple[int, int, int, int, int, int]:
    """Year, month, day, hour, minute, second in UTC of seconds since 1970."""
    days, rest = divmod(seconds, 86_400)
    ordinal = days + _DAYS_BEFORE_1970
    year_zero = ordinal < 1
    day = date.fromordinal(ordinal + _DAYS_IN_400_YEARS if year_zero else ordinal)
    return (0 if year_zero else day.year, day.month, day.day, rest // 3_600, rest // 60 % 60, rest % 60)


def wire_timestamp(instant_ns: int) -> str:
    """As a receiver gets it: `2021-02-24T16:25:29+0000`; the fraction is cut."""
    return "%04d-%02d-%02dT%02d:%02d:%02d+0000" % _civil(instant_ns // NS_PER_S)


def minute_text(instant_ns: int) -> str:
    """As the aggregation shows it: `2021-02-24 16:25`."""
    return "%04d-%02d-%02d %02d:%02d" % _civil(instant_ns // NS_PER_S)[:5]


def window_text(start_ms: int) -> str:
    """Start of a window: `2021-02-24T16:00:00Z`, with milliseconds where an hour is no whole number of seconds."""
    text = "%04d-%02d-%02dT%02d:%02d:%02d" % _civil(start_ms // 1_000)
    return f"{text}.{start_ms % 1_000:03}Z" if start_ms % 1_000 else text + "Z"


def parse_duration(text: str) -> int:
    """Milliseconds of `20s`, `333ms`, `1h`, `7d`, `1m30s` or `0`.

    Raises ValueError for anything else, as argparse expects of a type.
    """
    if text == "0":
        return 0
    if not re.fullmatch(r"(\d+(ms|s|m|h|d))+", text):
        raise ValueError(f"`{text}` is no duration such as `20s`")
    return sum(int(number) * _UNITS_MS[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d)", text))
