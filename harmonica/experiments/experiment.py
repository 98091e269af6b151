"""An experiment: a protocol, a method with its settings, a seed. Its slug names its files."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harmonica.compression import Compression
from harmonica.experiments import identity
from harmonica.experiments.compressed import CompressedModel
from harmonica.methods import Method, Reads, Task, get_method
from harmonica.models import Model, get_model
from harmonica.plan import Origin, Plan, Protocol, Router
from harmonica.utils import UserError, parse
from harmonica.utils.precision import check_precision
from harmonica.utils.provenance import device, versions


@dataclass(frozen=True)
class Experiment:
    """`name` is the method's; `method` is the method with its settings; `compression` is what it runs on, if not on the
    model itself."""

    protocol: Protocol
    name: str
    method: Method
    seed: int = 0  # of a training, or of random choices
    compression: CompressedModel | None = None

    def __post_init__(self):
        identity.check_seed(self.seed)

    @staticmethod
    def of(
        model: str, sampler: str, steps: int, cfg: float, name: str, settings: dict[str, Any], seed: int = 0
    ) -> "Experiment":
        """Check every name and value. Raises UserError for the first that is wrong."""
        about, cls = get_model(model), get_method(name)
        if cls.kinds and about.kind not in cls.kinds:
            raise UserError(f"{name} is for {' and '.join(cls.kinds)}, and {model} is a {about.kind}")
        protocol = Protocol(about.name, sampler, steps, cfg)
        identity.check_protocol(protocol)
        blocks = len(about.layout.blocks)
        limits = {"steps": steps, "blocks": blocks, "half the blocks": (blocks - 1) // 2}
        e = Experiment(protocol, name, parse(cls, name, settings, limits), seed)
        e.method.check(e.protocol)
        return e

    @property
    def model(self) -> Model:
        return get_model(self.protocol.model)

    @cached_property
    def slug(self) -> str:
        on = [f"on-{self.compression.label}"] if self.compression else []
        return identity.slug(self.protocol, self.seed, identity.with_settings(self.name, self.method), *on)

    @property
    def uncached(self) -> bool:
        """Whether it is the model itself, with neither cache nor compression: what others are compared with."""
        return self.name == "full" and self.compression is None

    @property
    def label(self) -> str:
        """The method and the compression as tables print them."""
        if self.compression is None:
            return self.method.label()
        on = self.compression.compressor.label()
        return on if self.name == "full" else f"{on} + {self.method.label()}"

    @property
    def source(self) -> tuple[str, int]:
        """Sampler and steps of the plan that the method starts from, if it starts from one."""
        sampler, steps = self.method.source()
        return sampler or self.protocol.sampler, steps or self.protocol.steps

    @property
    def reads(self) -> Reads:
        """What the method reads. Raises UserError if that does not exist for this protocol."""
        return self.method.reads(self.protocol)

    def make(
        self,
        other_plans: dict[str, Plan] | None = None,
        checkpoint: Path | None = None,
        loaded: Callable[[], Any] = lambda: None,
        precision: str = "float32",
        memory: float | None = None,
        compression: Compression | None = None,
    ) -> tuple[Plan, Router | None]:
        """Run the method: its plan, and its router if it learned one.

        `other_plans` are those it requires or continues, by method. A training keeps a checkpoint beside the plan file
        `checkpoint` and resumes from it. `loaded` is called once the weights are loaded: training time counts from
        then. A training runs in `precision` (λ in float32), uses at most `memory` bytes of a GPU, and has the model
        under `compression` as teacher and student, as the origin's notes say; its seconds are those of all processes.
        Raises UserError if a required plan is missing, the compression is of another model or has no gradients, or what
        the method raises.
        """
        required = self.method.requires
        if required and required not in (other_plans or {}):
            raise UserError(f"{self.name} starts from the plan of {required}: pass it with --from PLAN")
        about = self._on(compression)
        origin = Origin(self.name, asdict(self.method), self.seed, versions())
        task = Task(self.protocol, origin, self.slug, check_precision(precision), loaded, plans=other_plans or {},
                    checkpoint=checkpoint, memory=memory, compression=compression)  # fmt: skip
        made = self.method.make(task)
        if isinstance(made, Router):
            from harmonica.training import distributed

            world = distributed.world()
            before = made.origin.cost.get("training_s", 0)  # spent by an interrupted run, less the stalls of this one
            spent = round(before + world * (time.perf_counter() - task.clock[0]), 2)
            router = made.with_cost(training_s=spent, peak_MB=round(task.peak[0].megabytes(), 1))
            hardware = {"device": device(), "precision": precision} | ({"processes": str(world)} if world > 1 else {})
            notes = router.origin.notes | about
            router = replace(router, origin=replace(router.origin, hardware=hardware, notes=notes))
            return router.plan(router.origin.notes["threshold"]), router
        made = with_cost(made, task)
        return made.with_origin(notes=made.origin.notes | about) if about else made, None

    def _on(self, compression: Compression | None) -> dict[str, Any]:
        """What the origin of a plan says of the compression that it was made for."""
        if compression is None:
            return {}
        if compression.protocol.model != self.protocol.model:
            raise UserError(f"the compression is of {compression.protocol.model}, not of {self.protocol.model}")
        if self.method.gradients and not compression.differentiable:
            raise UserError(
                f"{compression.origin.method} passes no gradients: train the router on the model itself, and run its "
                "plan on the compression"
            )
        o = compression.origin
        return {"compression": {"method": o.method, "settings": o.settings, "checksum": compression.checksum}}


def with_cost(plan: Plan, task: Task) -> Plan:
    """A plan with what its method ran: seconds, trajectories and memory, if it ran the model at all."""
    if not task.clock:
        return plan
    before = plan.origin.cost  # of the plan that it goes on from
    spent = task.cost | {"training_s": time.perf_counter() - task.clock[0]}
    cost = before | {k: round(before.get(k, 0) + v, 2) for k, v in spent.items()}
    cost["peak_MB"] = max(before.get("peak_MB", 0), round(task.peak[0].megabytes(), 1))
    return plan.with_origin(cost=cost, hardware={"device": device(), "precision": task.precision})
