"""The benchmarks run, and compare what they say they compare. What they find is not asserted: machines differ."""

import re

import pandas as pd
import pytest
import torch

from harmonica.checks import bench
from harmonica.cli import main


def test_plans_of_the_benchmark_reuse_what_they_say():
    for _, percent, plan in bench.some_plans(branches=24, steps=8):
        assert plan.cur == pytest.approx(percent, abs=0.3) and not plan.actions[0].any()


def test_both_sides_run_interleaved():
    seen = []
    times = bench.interleaved({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=4)
    assert len(times["a"]) == len(times["b"]) == 4 and seen.count("a") == seen.count("b") == 5
    assert not re.search("aaa|bbb", "".join(seen))


def test_a_line_is_the_ratio_of_medians():
    """As a table's speed-up is, and what the seconds beside it give."""
    line = bench.compared("x", "case", ("slow", "fast"), ([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]), 2.0)
    assert line.ratio == line.this_value / line.that_value / 2 == 2 and line.low <= 1.5 <= line.high


def test_memory_is_what_was_predicted(tmp_path, capsys):
    assert main(["bench", "memory", "-o", str(tmp_path / "bench.csv")]) == 0
    out = capsys.readouterr().out
    for line in out.strip().splitlines()[:-1]:  # the last names the file
        measured, predicted = re.search(r"measured ([\d.]+) MB.*predicted ([\d.]+) MB", line).groups()
        assert measured == predicted
    assert len(pd.read_csv(tmp_path / "bench.csv")) == 2 and (tmp_path / "bench.provenance.json").is_file()


@pytest.mark.parametrize("suite, lines", [("inference", 8), ("plain", 1), ("training", 3)])
def test_every_suite_measures(suite, lines):
    found = list(bench.SUITES[suite](1, sizes=("28 narrow blocks",), batch=1, steps=8))
    assert len(found) == lines and all(x.this_value > 0 and x.that_value > 0 and x.ratio > 0 for x in found)
    assert len({str(x) for x in found}) == lines


def test_intervals_are_measured_beside_the_metrics():
    memory, intervals = bench.metrics(1, samples=4000, references=3000, width=16)
    assert memory.this == "peak" and memory.this_value > 0
    assert intervals.ratio == intervals.this_value / intervals.that_value > 0


def test_start_up_of_a_few_blocks():
    weights, image = bench.startup(1, blocks=1)
    assert weights.this == "copied into random weights" and weights.that_value > 0
    assert image.this == "process" and image.ratio == image.this_value / 6


def test_attention_is_compared_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(bench, "default_device", lambda: torch.device("cpu"))
    assert list(bench.attention(1)) == []


def test_a_benchmark_that_needs_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "memory", "--need-gpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
