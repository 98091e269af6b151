"""A copy of the project with the micro configuration, and Snakemake in it."""

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import yaml
from forked import forks

ROOT = Path(__file__).parent.parent
MICRO = ROOT / "workflow" / ".test" / "micro.yaml"


class Project:
    """A copy of the project, and snakemake in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        ignore = shutil.ignore_patterns(".*", "results", "tests", "__pycache__", "*.egg-info", "checkpoints", "site")
        shutil.copytree(ROOT, folder, ignore=ignore)
        self.write()

    def write(
        self, methods=lambda methods: methods, table: str = "table1", cases=lambda cases: cases, sampling=None
    ) -> None:
        """The micro configuration, with the methods, cases and sampling of a table changed."""
        config = yaml.safe_load(MICRO.read_text())
        own = config["tables"][table]
        own["methods"], own["cases"] = methods(own["methods"]), cases(own["cases"])
        own["sampling"] |= sampling or {}
        (self.folder / "micro.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def start(self, *args: str, cores: str = "2") -> subprocess.Popen:
        """Snakemake in a process group of its own, its output in one pipe."""
        command = [forks().python, "-m", "snakemake", *args, "--cores", cores, "--configfile", "micro.yaml"]
        env = {**os.environ, "PYTHONPATH": str(self.folder)}  # the copy's code, not that of the installed project
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=env, start_new_session=True, **pipe)

    def snakemake(self, *args: str, cores: str = "2") -> tuple[int, str]:
        """Exit status and output of Snakemake."""
        process = self.start(*args, cores=cores)
        out, _ = process.communicate()
        return process.returncode, out

    def planned(self, *more: str, table: str = "table1") -> list[str]:
        """Rules that a dry run would run, with how often."""
        status, out = self.snakemake("-n", f"results/{table}.csv", *more)
        assert status == 0, out
        stats = out.split("Job stats:")
        return [] if len(stats) == 1 else [x.split() for x in stats[1].split("\n\n")[0].strip().splitlines()[2:]]

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "results" / "table1.csv")
