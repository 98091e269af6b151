"""Learning-to-Cache as released: the authors' own routers for 20 or 50 steps, DDIM on DiT-XL/2 256 and DPM-Solver on
U-ViT-H/2 256 (arXiv 2406.01733).

The HarmoniCa paper's Learning-to-Cache rows are retrained by its authors and score lower than reported for this
router, so the table has both.
"""

from dataclasses import dataclass, replace

from harmonica.methods import Method, Reads, Task, setting
from harmonica.plan import Plan, Protocol
from harmonica.utils import UserError

STEPS = (20, 50)
FILES = {"dit-xl-2-256": "DDIM{}_router.pt", "uvit-h-2-256": "dpm{}_router.pth"}


@dataclass(frozen=True, kw_only=True)
class ReleasedLTC(Method):
    title = "Learning-to-Cache (released router)"

    threshold: float | None = setting(
        None, "τ, compute where r > τ; default: the authors', 0.1 for DiT, 0.9 for U-ViT", at_least=0, below=1
    )

    def reads(self, protocol: Protocol) -> Reads:
        if protocol.model not in FILES:
            raise UserError(f"routers are released for {' and '.join(FILES)}, not for {protocol.model}")
        if protocol.steps not in STEPS:
            raise UserError(f"routers are released for {' and '.join(map(str, STEPS))} steps, not for {protocol.steps}")
        from harmonica.models import get_model

        own = get_model(protocol.model).sampler
        if protocol.sampler != own:
            raise UserError(f"the router for {protocol.model} is released for {own}, not for {protocol.sampler}")
        return Reads(files=(FILES[protocol.model].format(protocol.steps),))

    def make(self, task: Task) -> Plan:
        from harmonica.methods import released_routers
        from harmonica.models import downloads

        (name,), model = self.reads(task.protocol).files, task.protocol.model
        router = released_routers.read(downloads.require(name)).router(model, "learning_to_cache")
        plan = router.plan(released_routers.threshold(model) if self.threshold is None else self.threshold)
        return replace(plan, protocol=task.protocol, origin=replace(task.origin, notes=router.origin.notes))
