"""Every key of a configuration is described, in the schema and in the README beside the configurations."""

from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "workflow" / "config" / "README.md"


def keys(schema: dict, above: str = "") -> Iterator[tuple[str, dict]]:
    """Every key of a schema, and those below it, `*` for a name of one's own."""
    for name, about in schema.get("properties", {}).items():
        yield above + name, about
        yield from keys(about, f"{above}{name}.")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from keys(schema["additionalProperties"], f"{above}*.")
    for option in (*schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from keys(option, above)


def table() -> str:
    """The README's table of keys, from the schema."""
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text("utf-8"))
    lines = ["| key | meaning |", "|---|---|"]
    for name, about in keys(schema):
        assert about.get("description"), f"{name} has no description in the schema"
        assert None not in about.values(), f"the description of {name} has a comma: quote it"
        lines.append(f"| `{name}` | {' '.join(about['description'].split())} |")
    return "\n".join(lines)


def test_every_key_is_described():
    """After a change of the schema: `python tests/experiments/test_schema.py`."""
    assert table() in README.read_text("utf-8")


if __name__ == "__main__":
    before, _, rest = README.read_text("utf-8").partition("<!-- keys -->\n")
    after = rest.partition("\n<!-- /keys -->")[2]
    README.write_text(f"{before}<!-- keys -->\n{table()}\n<!-- /keys -->{after}", "utf-8")
