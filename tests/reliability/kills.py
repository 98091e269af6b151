"""Killed runs: table 1 at its micro size, stopped at random moments and started again by the same command.

`python tests/reliability/kills.py --kill 20 --interrupt 4 --terminate 4 --seed 0` kills the whole process group of
Snakemake and its jobs, resumes, and compares what is there in the end with an undisturbed run: the same bytes but for
times, no temporary file, no checkpoint, nothing locked. A second run beside the undisturbed one must be refused, and
two `harmonica sample` into one folder must leave what one does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from project import Project  # noqa: E402

TARGET = "results/table1.csv"
KEPT = ("full", "fora", "harmonica", "random_plan")  # of the rows, unless `--full`
TIMES = ["latency_s", "speedup", "speedup_q1", "speedup_q3", "training_s", "delta_speedup"]
MEASURED = ("training_s", "peak_MB")  # of a training's cost


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(folder: Path) -> dict[str, Any]:
    """What a finished run has left, by file, without times: images, features, manifests and metrics by their bytes,
    plans and routers by their tables and origins, the table by its cells."""
    from harmonica.plan import Plan, Router

    out: dict[str, Any] = {}
    own = folder / "results" / "pocket"
    for path in sorted(
        [*own.rglob("samples/**/*.npz"), *own.rglob("samples/**/*.json"), *own.rglob("metrics/**/*.json")]
    ):
        out[str(path.relative_to(own))] = sha256(path)
    # one job makes the plans of all tables: a killed one leaves those of others for when they are needed
    needed = json.loads((own / "table1.provenance.json").read_text("utf-8"))["protocols"]
    for path in sorted(own.rglob("plans/**/*.safetensors")):
        if path.name.removesuffix(".safetensors").removesuffix(".router") not in needed:
            continue
        loaded = (Router if ".router" in path.name else Plan).load(path)
        origin = asdict(loaded.origin)
        origin["cost"] = {k: v for k, v in origin["cost"].items() if k not in MEASURED}
        table = loaded.logits if isinstance(loaded, Router) else loaded.actions
        out[path.name] = table.tobytes().hex(), asdict(loaded.protocol), origin
    for name in ("table1.csv", "pocket/table1.csv"):
        table = pd.read_csv(folder / "results" / name)
        out[name] = table.drop(columns=[c for c in TIMES if c in table]).to_csv()
    return out


def left_over(folder: Path) -> list[str]:
    """Temporary files, checkpoints and locks."""
    hidden = [p for p in (folder / "results").rglob(".*") if p.name != ".snakemake_timestamp"]
    return [str(p.relative_to(folder)) for p in [*hidden, *(folder / ".snakemake" / "locks").glob("*")]]


def compared(folder: Path, expected: dict[str, Any]) -> list[str]:
    """What differs from the undisturbed run."""
    found = results(folder)
    wrong = [k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)]
    return [f"{k} differs" for k in sorted(wrong)] + [f"{k} is left over" for k in left_over(folder)]


def kills(project: Project, planned: Counter, longest_s: float, expected: dict, rng: random.Random) -> dict[str, Any]:
    """Stop runs by the planned signals at random moments, resume, and compare every run that ends."""
    waiting = [s for s, n in planned.items() for _ in range(n)]
    rng.shuffle(waiting)
    done: Counter = Counter()
    problems, finished, stage = [], 0, Counter()
    while waiting or not finished:
        process = project.start(TARGET)
        try:
            out, _ = process.communicate(timeout=rng.uniform(0.5, longest_s) if waiting else None)
        except subprocess.TimeoutExpired:
            sent = waiting.pop()
            stage[running(project.folder)] += 1
            os.killpg(process.pid, sent)
            out, _ = process.communicate()
            done[signal.Signals(sent).name] += 1
            print(
                f"{time.strftime('%H:%M:%S')} {signal.Signals(sent).name}: exit {process.returncode}", file=sys.stderr
            )
            finished = 0
            continue
        if process.returncode:
            problems.append(f"the same command failed: {out[-1500:]}")
            print(problems[-1], file=sys.stderr)
            break
        problems += compared(project.folder, expected)
        finished += 1
        print(f"{time.strftime('%H:%M:%S')} ended: {problems or 'as undisturbed'}", file=sys.stderr)
        if waiting:
            shutil.rmtree(project.folder / "results")
    return {"stopped": dict(done), "while": dict(stage), "problems": problems}


def running(folder: Path) -> str:
    """What a run was doing: the last rule that began to write a log."""
    logs = [p for p in (folder / "results").rglob("logs/**/*.log")] if (folder / "results").is_dir() else []
    return max(logs, key=lambda p: p.stat().st_mtime).parent.name if logs else "start"


def undisturbed(project: Project) -> list[str]:
    """Run to the end; problems of that, and of a second run beside it, which must be refused."""
    first = project.start(TARGET)
    while not any((project.folder / ".snakemake" / "locks").glob("*")) and first.poll() is None:
        time.sleep(0.1)
    status, out = project.snakemake(TARGET)
    said = "Directory cannot be locked" in out and "no other Snakemake process" in out
    problems = [] if status and said else [f"the second run was not refused: {out[-500:]}"]
    out, _ = first.communicate()
    return problems + ([f"the first run failed: {out[-3000:]}"] if first.returncode else [])


def two_samples(folder: Path, python_path: Path) -> list[str]:
    """Problems of two `harmonica sample` of one plan into one folder."""
    env = {**os.environ, "PYTHONPATH": str(python_path), "OMP_NUM_THREADS": "1"}

    def harmonica(*args: object) -> list[str]:
        return [sys.executable, "-m", "harmonica", *map(str, args)]

    plan = folder / "p.safetensors"
    subprocess.run(harmonica("plan", "full", "--steps", 3, "-o", plan), env=env, check=True, capture_output=True)
    sizes = ["--images", 40, "--chunk", 4, "--batch", 4]
    command = {k: harmonica("sample", plan, *sizes, "-o", folder / k) for k in ("alone", "both")}
    subprocess.run(command["alone"], env=env, check=True, capture_output=True)
    pair = [subprocess.Popen(command["both"], env=env, stderr=subprocess.PIPE) for _ in range(2)]
    problems = [f"sample failed: {err[-300:]!r}" for p in pair if (err := p.communicate()[1]) and p.returncode]
    alone, both = ({p.name: sha256(p) for p in (folder / k).rglob("*") if p.is_file()} for k in ("alone", "both"))
    return problems + ([] if alone == both and len(alone) == 10 else ["two samples left other files than one"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=20, help="SIGKILLs; default: %(default)s")
    parser.add_argument("--interrupt", type=int, default=4, help="SIGINTs; default: %(default)s")
    parser.add_argument("--terminate", type=int, default=4, help="SIGTERMs; default: %(default)s")
    parser.add_argument(
        "--longest", type=float, default=0.25, help="of an undisturbed run, until a stop; default: %(default)s"
    )
    parser.add_argument("--full", action="store_true", help=f"all rows, not only {', '.join(KEPT)} of one case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it, and its children
    planned = Counter({signal.SIGKILL: args.kill, signal.SIGINT: args.interrupt, signal.SIGTERM: args.terminate})
    with tempfile.TemporaryDirectory() as temporary:
        project, started = Project(Path(temporary) / "p"), time.monotonic()
        if not args.full:
            project.write(
                lambda methods: [m for m in methods if (m if isinstance(m, str) else next(iter(m))) in KEPT],
                cases=lambda cases: dict(list(cases.items())[:1]),
            )
        problems = undisturbed(project)
        print(f"{time.strftime('%H:%M:%S')} undisturbed: {problems or 'a second run was refused'}", file=sys.stderr)
        took, expected = time.monotonic() - started, results(project.folder)
        problems += compared(project.folder, expected)
        shutil.rmtree(project.folder / "results")
        found = kills(project, planned, args.longest * took, expected, random.Random(args.seed))
        found["problems"] += problems + two_samples(Path(temporary), project.folder)
        about = {"undisturbed_s": round(took), "files": len(expected), "all_s": round(time.monotonic() - started)}
    print(json.dumps(found | about, indent=1))
    return bool(found["problems"])


if __name__ == "__main__":
    sys.exit(main())
