"""Pages opened in headless Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def opened(page: Path, shot: Path) -> str:
    """The page as Chromium has it, after its scripts, with a picture of it in `shot`. Fails for a missing file or an
    error in a script; skips the test where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip(f"Chromium is not installed: {page.name} was made, and not opened")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
               "--virtual-time-budget=8000", "--enable-logging=stderr"]  # fmt: skip
    done = subprocess.run([*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True)
    assert not re.findall(r"ERR_FILE_NOT_FOUND|Uncaught \w*Error", done.stderr), done.stderr
    subprocess.run([*command, f"--screenshot={shot}", f"file://{page}"], capture_output=True)
    assert shot.stat().st_size > 10_000
    return done.stdout
