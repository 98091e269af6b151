"""First-block cache (ParaAttention, diffusers' FirstBlockCache) and DBCache (cache-dit).

The first F blocks run at every step. If what they add to the stream has changed by less than a threshold (relative L1)
since the last computed step, the blocks after them are skipped, and what they added then is added again. DBCache also
runs the last B blocks at every step and limits the skips in a row.
"""

from dataclasses import dataclass

from harmonica.methods import RuledMethod, setting
from harmonica.plan import BranchLayout, Protocol, Rule
from harmonica.utils import UserError


@dataclass(frozen=True, kw_only=True)
class FBCache(RuledMethod):
    title = "FBCache"

    blocks: int = setting(1, "F, at the start, that run at every step", at_least=1, at_most="blocks")
    last: int = setting(0, "B, at the end, that run at every step", at_least=0, at_most="blocks")
    most: int | None = setting(None, "skips in a row; default: no limit", at_least=1)
    warm_up: int = setting(1, "steps computed at first", at_least=1, at_most="steps")

    def label(self) -> str:
        return f"DBCache F{self.blocks}B{self.last}" if self.last or self.blocks > 1 else self.title

    def check(self, protocol: Protocol) -> None:
        from harmonica.models import get_model

        self._check(get_model(protocol.model).layout)

    def _check(self, layout: BranchLayout) -> None:
        if self.blocks + self.last >= len(layout.blocks):
            raise UserError(f"F + B must be less than the {len(layout.blocks)} blocks, got {self.blocks} + {self.last}")
        if self.last and layout.skips:
            raise UserError(f"B must be 0: the last blocks of {layout.name} join streams that were skipped")

    def span(self, task):
        self._check(task.layout)
        blocks = task.layout.blocks
        return blocks[self.blocks][0], blocks[len(blocks) - self.last - 1][1]

    def rules(self, task):
        return lambda threshold: (Rule("first branches", threshold, most=self.most), {})
