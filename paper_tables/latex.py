"""The readable tables as LaTeX (booktabs), made from their markdown so that both say the same."""

import re

SYMBOLS = {
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "α": r"$\alpha$",
    "β": r"$\beta$", "λ": r"$\lambda$", "τ": r"$\tau$", "–": "--", "²": "$^2$",
}  # fmt: skip


def from_markdown(text: str) -> str:
    """Every table of a markdown page as a `tabular`, below its heading as a comment. Needs the package booktabs."""
    out = ["% \\usepackage{booktabs}"]
    for part in text.strip().split("\n\n"):
        lines = part.split("\n")
        if lines[0].startswith("#"):
            out.append("% " + lines[0].lstrip("# "))
        if lines[0].startswith("|"):
            heads, _, *rows = ([_cell(c) for c in line.strip().strip("|").split(" | ")] for line in lines)
            body = [" & ".join(row) + r" \\" for row in rows]
            out += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\"]
            out += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out).rstrip() + "\n"


def _cell(text: str) -> str:
    escaped = "".join(SYMBOLS.get(c, c) for c in text.strip())
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)
