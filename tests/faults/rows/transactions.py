"""Messages that are written in transactions, some of which are aborted."""

from __future__ import annotations

import sys

from rows.row import SMALL_LANES, Row, kill_now, pause
from system import ORACLE, Plan, System
from upstream import Upstream, chat_of

sys.path.insert(0, str(ORACLE))
import generate  # noqa: E402


def transactions(system: System) -> None:
    """Transactions of two producers are committed, aborted or stay open for a while, beside the usual load, and processes die."""
    options = generate.parse_arguments(["--seed", str(system.seed + 1), "--chats", "100", "--workspaces", str(system.plan.workspaces),
                                        "--max-ahead", "2000", "--events", "100000", "--span", str(100_000 * 20)])
    generator = generate.Generator(options)
    producers = [Upstream(system, name) for name in ("first", "second")]
    ends = system.each_in_turn(["commit", "commit", "abort", "stay open"])
    number, killed = 0, False
    while system.loading:
        producer = system.random.choice(producers)
        end = next(ends)
        producer.begin()
        for _ in range(system.random.randint(1, 40)):
            line = generator.line(generator.event(number))
            number += 1
            producer.send(chat_of(line), line)
            if end != "abort":
                system.hit("messages in transactions")
            else:
                system.hit("messages of aborted transactions")
        if system.random.random() < 0.15:
            victim = system.random.choice(system.processes)
            kill_now(system, victim)
            killed = True
            pause(system, 0, 4)
            system.start(victim)
        if end == "stay open":
            pause(system, 1, 4)
            system.hit("transactions that stayed open")
        else:
            pause(system, 0, 0.3)
        if end == "abort":
            producer.abort()
            system.hit("transactions aborted")
        else:
            producer.commit()
            system.hit("transactions committed")
        pause(system, 0, 0.5)
    if killed:
        system.hit("killed meanwhile")
    # The log of each partition ends with the mark of an aborted transaction.
    producer = producers[-1]
    producer.begin()
    for index in range(40):
        line = generator.line(generator.event(number + index))
        producer.send(chat_of(line), line)
    producer.abort()
    for producer in producers:
        producer.close()


ROWS = [
    Row("transactions", "messages come in transactions, some aborted, while processes die", transactions,
        ("messages in transactions", "messages of aborted transactions", "transactions that stayed open", "killed meanwhile"),
        lambda seconds: Plan(seconds=seconds, rate=75, settings=dict(SMALL_LANES))),
]
