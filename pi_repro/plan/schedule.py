"""How long a graph of tasks takes when a number of them can run side by side.

Rule: a task starts as soon as what it waits for is done and a slot is free, in the order given; what
the launcher does.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

#: (name, duration, names that must be done first)
Task = tuple[str, float, Sequence[str]]


def makespan(tasks: Sequence[Task], slots: int | None) -> float:
    """Wall time from the first start to the last end, in the unit of the durations.

    Args:
        tasks: every task; a prerequisite that is not among them counts as done.
        slots: tasks side by side; None for as many as there are (the critical path).

    Raises:
        ValueError: when tasks wait for each other.
    """
    names = {name for name, _, _ in tasks}
    waiting = [(name, duration, {before for before in after if before in names}) for name, duration, after in tasks]
    running: list[tuple[float, str]] = []
    done: set[str] = set()
    now = 0.0
    while waiting or running:
        ready = [task for task in waiting if task[2] <= done]
        free = len(ready) if slots is None else max(0, slots - len(running))
        for name, duration, _ in ready[:free]:
            heapq.heappush(running, (now + duration, name))
        started = {name for name, _, _ in ready[:free]}
        waiting = [task for task in waiting if task[0] not in started]
        if not running:
            raise ValueError(f"tasks wait for each other: {', '.join(task[0] for task in waiting)}")
        now, name = heapq.heappop(running)
        done.add(name)
    return now
