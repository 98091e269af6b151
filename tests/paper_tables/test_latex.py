"""LaTeX of the readable tables."""

import shutil
import subprocess

import pytest

from paper_tables.latex import from_markdown

PAGE = """# Table 1, pocket scale

Words that are not in the table.

## pocket DiT, case 50

| Method | FID ↓ | CUR % |
|---|---|---|
| Full | 0.284 ±.012 | – |
| SDT + L_LTC | **0.255 ±.010** | 37.50 |
| Δ-DiT & co | ∞ | 5 |
"""


def test_a_table():
    text = from_markdown(PAGE)
    assert r"Method & FID $\downarrow$ & CUR \% \\" in text and r"\begin{tabular}{lrr}" in text
    assert r"SDT + L\_LTC & \textbf{0.255 $\pm$.010} & 37.50 \\" in text
    assert r"$\Delta$-DiT \& co & $\infty$ & 5 \\" in text and "Words" not in text
    assert text.count("tabular}") == 2 and "% pocket DiT, case 50" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_it_compiles(tmp_path):
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + from_markdown(PAGE) + "\\end{document}"
    (tmp_path / "t.tex").write_text(page)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
