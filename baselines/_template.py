"""Copy to `baselines/my_method.py`, change, and add one line `- my_method` to a list of methods in workflow/config.

Say here what the rule is and which paper it comes from.
"""

from dataclasses import dataclass

from harmonica.methods import Method, Task, setting
from harmonica.plan import REUSE, Plan


@dataclass(frozen=True)
class MyMethod(Method):
    title = "My method"  # as tables print it

    interval: int = setting(3, "N, every how many steps all branches are computed", at_least=1)

    def make(self, task: Task) -> Plan:
        actions = task.actions()  # steps × branches, all computed; row 0 is the noisiest step
        for s in range(task.steps):
            if s % self.interval:
                actions[s] = REUSE
        return task.plan(actions)
