"""`harmonica recommend`, on the committed run of table 1."""

import pandas as pd
import pytest

from harmonica.sharing import measured
from harmonica.utils import ROOT, UserError
from paper_tables.commands import recommend

TABLE = ROOT / "results" / "reference" / "pocket" / "table1.csv"


def recommended(capsys, *args: str) -> list[str]:
    import argparse

    parser = argparse.ArgumentParser()
    recommend.add_arguments(parser)
    recommend.run(parser.parse_args(["--table", str(TABLE), *args]))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("against", recommend.AGAINST)
@pytest.mark.parametrize("speedup", [1.5, 3])
def test_the_best_of_the_rows_that_save_enough(capsys, against, speedup):
    lines = recommended(capsys, "--steps", "20", "--speedup", str(speedup), "--against", against)
    table, metric = pd.read_csv(TABLE), recommend.AGAINST[against]
    rivals = table[table.case.astype(str).str.startswith("20") & (table.method != "Full")]
    rivals = rivals[rivals.theoretical_speedup >= measured.NEAR * speedup]
    best = rivals.loc[rivals[metric].idxmax()]
    assert lines[0].startswith(f"{best.method}, {best.theoretical_speedup:.2f}x") and "20 uncached steps" in lines[0]
    assert lines[1].startswith("  harmonica plan ") and "--steps 20" in lines[1]
    assert f"PSNR {best[metric]:.2f} ±" in lines[2] and f"{best.speedup:.2f}x" in lines[3]


def test_the_command_it_prints_makes_a_plan(capsys, tmp_path):
    from harmonica.cli import main

    table = str(TABLE.with_name("frontier.csv"))
    command = recommended(capsys, "--table", table, "--steps", "20", "--speedup", "5")[1].split()
    command[-1] = str(tmp_path / "plan.safetensors")
    assert main(command[1:]) == 0 and (tmp_path / "plan.safetensors").is_file()


def test_a_speedup_that_no_row_has_is_one_sentence(capsys):
    with pytest.raises(UserError, match="no row of pocket-dit with 20 steps that saves 50x"):
        recommended(capsys, "--steps", "20", "--speedup", "50")
    with pytest.raises(UserError, match="no row of pocket-uvit"):
        recommended(capsys, "--model", "pocket-uvit")
