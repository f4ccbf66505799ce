# ruff: noqa: INP001  (a script, not a package)
"""Draw `docs/saving.svg` and fill the table in README.md from `docs/measured.jsonl`.

python -m benchmarks --json > docs/measured.jsonl
python docs/draw_saving.py
"""

import json
from html import escape
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parent
BEGIN: Final = "<!-- measured: begin (docs/draw_saving.py writes what is between) -->"
END: Final = "<!-- measured: end -->"

CASES: Final = (
    "100 steps, one 20 KB message each",
    "30 steps, a 5 MB list of dicts, unchanged",
    "30 steps, a 5 MB str, unchanged",
    "30 steps, a 5 MB list of dicts, nodes return {**state}",
)

# A card of its own colour, so that it reads the same on a light and on a dark page.
CARD, INK, FAINT, STOCK, OURS = "#f6f8fa", "#1f2328", "#59636e", "#9aa4ae", "#1a7f37"
WIDTH, LEFT, RIGHT, TOP, CASE, BAR = 760, 24, 96, 66, 72, 16
FONT: Final = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def measured(path: Path = DOCS / "measured.jsonl") -> list[dict[str, Any]]:
    """The rows that `python -m benchmarks --json` printed, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _text(x: float, y: float, text: str, colour: str = INK, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{style}>{escape(text)}</text>'


def _bar(y: float, megabytes: float, scale: float, colour: str, name: str) -> str:
    width = max(megabytes * scale, 1.5)
    value = f"{megabytes:,.1f} MB  {name}"
    return (
        f'<rect x="{LEFT}" y="{y:g}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
        + _text(LEFT + width + 8, y + BAR - 4, value, FAINT)
    )


def picture(rows: list[dict[str, Any]]) -> str:
    """The saving as an SVG: what each run leaves on disk, drawn to one scale."""
    values = {row["name"]: row["value"] for row in rows}
    pairs = [(case, values[f"{case}: stock"], values[f"{case}: agentref"]) for case in CASES]
    scale = (WIDTH - LEFT - RIGHT - 40) / max(stock for _, stock, _ in pairs)
    height = TOP + CASE * len(pairs)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = f'font-family="{FONT}" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img">',
        "<title>Bytes on disk after a LangGraph run with SqliteSaver, stock and with agentref</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{CARD}"/>',
        _text(
            LEFT, 30, "On disk after one run with SqliteSaver", style=' font-size="16" font-weight="600"'
        ),
        _text(LEFT, 50, "checkpoint database and store together, megabytes", FAINT),
    ]
    for index, (case, stock, ours) in enumerate(pairs):
        y = TOP + CASE * index
        parts += [
            _text(LEFT, y + 14, case),
            _bar(y + 22, stock, scale, STOCK, "stock"),
            _bar(y + 40, ours, scale, OURS, "agentref"),
        ]
    return "\n".join([*parts, "</svg>", ""])


def table(rows: list[dict[str, Any]]) -> str:
    """Every number that has a bar, as Markdown."""
    lines = ["| measured | bar | | what |", "|---:|---:|---|---|"]
    for row in rows:
        most, least = row["at_most"], row["at_least"]
        if most is None and least is None:
            continue
        bar = f"≤ {most:,g}" if most is not None else f"≥ {least:,g}"
        verdict = "reached" if row["reached"] else "**missed**"
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(f"| {row['value']:,.3f} {row['unit']} | {bar} | {verdict} | {row['name']}{note} |")
    return "\n".join(lines)


def filled(readme: str, rows: list[dict[str, Any]]) -> str:
    """The README with the table of these rows."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write both."""
    rows = measured()
    readme = DOCS.parent / "README.md"
    (DOCS / "saving.svg").write_text(picture(rows), encoding="utf-8")
    readme.write_text(filled(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
