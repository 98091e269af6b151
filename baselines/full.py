"""The uncached model: every branch is computed at every step. The reference of every other row."""

from dataclasses import dataclass

from harmonica.methods import Method, Task
from harmonica.plan import Plan


@dataclass(frozen=True)
class Full(Method):
    title = "Full"
    plain = True

    def make(self, task: Task) -> Plan:
        return task.plan(task.actions())
