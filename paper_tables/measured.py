"""What a table is laid out from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harmonica.compression import Compression
from harmonica.evaluation.records import Latency
from harmonica.evaluation.statistics import Estimate
from harmonica.experiments import Row
from harmonica.experiments.config import by_method, uncached
from harmonica.plan import BranchLayout, Plan, macs
from harmonica.plan.rule import cur_of, macs_of


@dataclass(frozen=True)
class Measured:
    """The inputs of a table's layout. `routers`, `metrics` and `images` are by slug of the experiment."""

    scale: str
    rows: list[Row]
    plans: dict[str, Plan]
    device: str
    routers: dict[str, Path]
    metrics: dict[str, dict[str, dict]]  # by case, then slug
    latency: Latency | None  # None for a table of costs
    images: dict[str, tuple[np.ndarray, np.ndarray]]  # the first of each row, with their labels
    compressions: dict[str, Compression] = field(default_factory=dict)  # by slug of the compressed model

    @cached_property
    def lines(self) -> list[list[Row]]:
        """The rows as a table shows them: a learned method's training seeds are one."""
        return by_method(self.rows)

    def of(self, row: Row) -> dict[str, Any]:
        """The metrics of a row, with their block means."""
        return self.metrics[row.case][row.slug]

    def mixed(self) -> dict[str, list[Row]]:
        """Rows whose images, or those that they are compared with, were made on several kinds of device, by those."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            made_on = self.of(row).get("images_made_on", [])
            devices = {re.sub(r", \d+ cores$", "", m["device"]) for m in made_on if "device" in m}
            if len(devices) > 1:
                found.setdefault(" and ".join(sorted(devices)), []).append(row)
        return found

    def compression(self, row: Row) -> Compression | None:
        """What a row runs on, if not on the model itself."""
        on = row.experiment.compression
        return self.compressions[on.slug] if on else None

    def layout(self, row: Row) -> BranchLayout:
        """The branches of what a row runs on, and their MACs."""
        layout, on = row.experiment.model.layout, self.compression(row)
        return on.layout_of(layout) if on else layout

    def base(self, line: list[Row]) -> Row:
        """The uncached row of a line's case."""
        return uncached(self.rows, line[0].case)

    def estimate(self, line: list[Row], metric: str) -> Estimate | None:
        """A metric of a line: the mean over its training seeds. None if it was not measured, or has no interval."""
        found = [self.of(r) for r in line]
        if not all(metric in m and metric in m["blocks"] for m in found):
            return None
        values = np.array([m[metric] for m in found])
        blocks = np.mean([m["blocks"][metric] for m in found], 0)
        return Estimate(float(values.mean()), blocks, (values,) if len(line) > 1 else ())

    def cur(self, row: Row) -> float:
        """Cache utilisation ratio of a row in percent; of a rule the mean over images."""
        plan = self.plans[row.slug]
        return float(cur_of(plan, np.array(self.of(row)["skipped"]))) if plan.rule else plan.cur

    def macs(self, row: Row) -> float:
        """MACs of a row for one image and guidance half; of a rule the mean over images."""
        plan, layout = self.plans[row.slug], self.layout(row)
        return macs_of(plan, layout, self.of(row)["skipped"]) if plan.rule else macs(plan, layout)

    def cur_sd(self, line: list[Row]) -> float | None:
        """How much the images of a rule differ in what they reuse, a standard deviation in percent; None if the plan is
        fixed."""
        found = [(self.plans[r.slug], self.of(r)["skipped_sd"]) for r in line if self.plans[r.slug].rule]
        return float(np.mean([cur_of(plan, np.array(sd)) for plan, sd in found])) if found else None

    def plan_mean(self, line: Iterable[Row], value) -> float:
        """The mean over a line's plans of a function of them."""
        return float(np.mean([value(self.plans[r.slug]) for r in line]))
