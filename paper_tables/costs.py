"""Tables of router training costs, from the records in the plans: no images are generated."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harmonica.methods import get_method
from paper_tables import verdicts
from paper_tables.layout import rows_of_table
from paper_tables.measured import Measured
from paper_tables.published import lookup

HEADS = {
    "method": "Method", "steps": "Steps", "batch": "Batch", "training_images": "Images", "training_s": "Time s",
    "time": "Time ×", "peak_MB": "Peak MB", "memory": "Memory ×", "rounds": "Rounds", "updates_per_s": "Updates/s",
    "generation_passes": "λ passes", "beta_moves": "β moves", "CUR": "CUR %", "paper_images": "paper images",
    "paper_time_h": "paper time h", "paper_memory": "paper GB/GPU",
}  # fmt: skip
FORMATS = {
    "training_s": "{:.1f}", "time": "{:.2f}", "peak_MB": "{:.0f}", "memory": "{:.2f}", "updates_per_s": "{:.1f}",
    "generation_passes": "{:.1f}", "CUR": "{:.2f}", "training_images": "{:.0f}", "rounds": "{:.0f}",
    "beta_moves": "{:.0f}",
}  # fmt: skip


@dataclass(frozen=True)
class CostTable:
    """A table of training costs."""

    title: str

    def build(self, measured: Measured) -> pd.DataFrame:
        """One row per learned method, the mean over its training seeds. Time and memory are also given as multiples of
        HarmoniCa's in the same case."""
        out = []
        for line in measured.lines:
            e, plans = line[0].experiment, [measured.plans[r.slug] for r in line]
            if "rounds" not in plans[0].origin.cost:
                continue
            cost = {k: float(np.mean([p.origin.cost[k] for p in plans])) for k in plans[0].origin.cost}
            plan, notes = plans[0], plans[0].origin.notes
            moves = float(np.mean([p.origin.notes["beta_moves"] for p in plans]))
            title = e.method.label()
            beside = e.model.scale == "pocket" or (e.model.title, e.model.resolution) == ("DiT-XL/2", 256)
            beside = beside and not e.model.own
            paper = lookup("table6_training_cost", method=title) if beside else {}
            out.append({
                "scale": measured.scale, "model": e.model.title, "case": line[0].case, "method": title,
                "steps": plan.steps, "seeds": len(line),
                "batch": notes["recipe"]["batch"], "training_images": cost["images"], "training_s": cost["training_s"],
                "peak_MB": cost["peak_MB"], "rounds": cost["rounds"],
                "updates_per_s": cost["updates"] / cost["training_s"],
                "generation_passes": cost["generation_passes"], "beta_moves": moves,
                "CUR": float(np.mean([p.cur for p in plans])),
                "paper_images": paper.get("images"), "paper_time_h": paper.get("time_h"),
                "paper_memory": paper.get("memory_GB_per_GPU"),
            })  # fmt: skip
        table = pd.DataFrame(out)
        for column, of in (("time", "training_s"), ("memory", "peak_MB")):
            own = table[table.method == get_method("harmonica").title].set_index("case")[of]
            table[column] = table[of] / table.case.map(own)
        return table

    def markdown(self, table: pd.DataFrame, measured: Measured) -> str:
        """One readable table per case."""
        parts = [
            f"# {self.title}, {measured.scale} scale",
            f"On {measured.device}, one process and one thread per training. Time counts from when the weights are "
            "loaded, with the search for β that meets the row's CUR (it is part of the one training; *β moves* is how "
            "often β changed), and, for Learning-to-Cache, the encoding of its images. Peak is the memory above that "
            "of the loaded model; for a small model and batch it is mostly torch's own, the same in all rows. "
            "*Updates/s*: updated rows of logits; direct optimisation updates all at once, once per trajectory. "
            "*λ passes*: full trajectories generated to measure λ. Time × and Memory ×: HarmoniCa's are 1. "
            "The paper's columns are its table 6 (DiT-XL/2 256, 4 GPUs).",
        ]
        said = self.verdicts(table, measured)
        for case, block in table.groupby("case", sort=False):
            heads = {k: v for k, v in HEADS.items() if not block[k].isna().all()}
            cells = [["–" if pd.isna(row[k]) else FORMATS.get(k, "{}").format(row[k]) for k in heads]
                     for _, row in block.iterrows()]  # fmt: skip
            parts += [f"## {block.model.iloc[0]}, case {case}", rows_of_table(heads.values(), cells)]
            if lines := verdicts.text(said[str(case)]):
                heading = "The paper's claim here (× the ratio of seconds, and its 95 % interval over training seeds):"
                parts += [heading, "\n".join(lines)]
        return "\n\n".join(parts) + "\n"

    def verdicts(self, table: pd.DataFrame, measured: Measured) -> dict[str, list[verdicts.Verdict]]:
        """Whether HarmoniCa trains in less time than Learning-to-Cache, in each case."""
        names = [get_method(name).title for name in ("harmonica", "learning_to_cache")]
        seconds: dict[str, dict[str, np.ndarray]] = {case: {} for case in table.case.unique()}
        for line in measured.lines:
            if line[0].case in seconds:
                seconds[line[0].case][line[0].experiment.method.label()] = np.array(
                    [measured.plans[r.slug].origin.cost.get("training_s", 0) for r in line]
                )
        a, b = names
        return {
            case: list(verdicts.of_cost(a, b, own[a], own[b])) if {a, b} <= own.keys() else []
            for case, own in seconds.items()
        }

    def draw(self, table: pd.DataFrame, seeds: pd.DataFrame, measured: Measured, stem: Path) -> None:
        """It has no figures."""
