"""The readable tables as LaTeX (booktabs), made from their markdown so that both say the same."""

import re

SYMBOLS = {
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "α": r"$\alpha$",
    "÷": r"$\div$", "β": r"$\beta$", "λ": r"$\lambda$", "τ": r"$\tau$", "–": "--", "²": "$^2$",
}  # fmt: skip
WIDE = 10  # columns that fit a line without scaling


def from_markdown(text: str) -> str:
    """Every table of a markdown page as a `tabular`, below its heading as a comment; a wide one is scaled to the line.
    Needs the packages booktabs and graphicx."""
    out = ["% \\usepackage{booktabs,graphicx}"]
    for part in text.strip().split("\n\n"):
        lines = part.split("\n")
        if lines[0].startswith("#"):
            out.append("% " + lines[0].lstrip("# "))
        if lines[0].startswith("|"):
            heads, _, *rows = ([_cell(c) for c in line.strip().strip("|").split(" | ")] for line in lines)
            body = [" & ".join(row) + r" \\" for row in rows]
            begin, end = rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\end{tabular}"
            if len(heads) > WIDE:
                begin, end = r"\resizebox{\linewidth}{!}{" + begin, end + "}"
            out += [begin, r"\toprule", " & ".join(heads) + r" \\", r"\midrule", *body, r"\bottomrule", end, ""]
    return "\n".join(out).rstrip() + "\n"


def _cell(text: str) -> str:
    escaped = "".join(SYMBOLS.get(c, c) for c in text.strip())
    bold = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)
    return re.sub(r"\*(.+?)\*", r"\\emph{\1}", bold)
