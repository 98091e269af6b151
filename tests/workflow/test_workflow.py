"""The workflow refuses a wrong configuration in one sentence, and plans the paper scale."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent


def test_a_wrong_configuration_stops_snakemake_with_one_sentence(tmp_path):
    command = [sys.executable, "-m", "snakemake", "-n", "--config", "imges=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    out = done.stdout + done.stderr
    assert done.returncode != 0 and "unknown configuration key 'imges'; did you mean 'images'?" in out
    assert "Traceback" not in out


def test_the_paper_scale_is_planned():
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--config", "scale=paper"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_environment_file_and_lock_hold_together():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert {"pip": ["-r requirements.txt", "-e ."]} in environment["dependencies"]
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock and all("==" in line for line in lock.splitlines() if line.strip())
