"""The comparison as a table: for a paper's repository, and for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.measure import Row
from experiments.tables import as_markdown
from jaxdistill.runtime import progress

EXPLAINED = (
    "MiB: temporaries of the compiled program; RSS: peak of a process of its own, MiB; comp.: compilation; "
    "cosine and error: of the hypergradient against the reference; residual: of the linear solve, relative."
)
COLUMNS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "estimator": lambda row: row["estimator"],
    "K": lambda row: row["K"],
    "T": lambda row: row["T"],
    "MiB": lambda row: _number(row, "program_bytes", 2.0**-20),
    "RSS": lambda row: _number(row, "process_bytes", 2.0**-20),
    "comp. s": lambda row: _number(row, "compile_seconds"),
    "ms": lambda row: _number(row, "seconds_median", 1e3),
    "cosine": lambda row: _fixed(row.get("cosine_to_reference")),
    "error": lambda row: _number(row, "relative_error", digits=2),
    "residual": lambda row: _number(row, "residual", digits=2),
}


def _number(row: Mapping[str, Any], name: str, factor: float = 1.0, digits: int = 3) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    return f"{value * factor:.{digits}g}" if value * factor < 1000 else f"{value * factor:.0f}"


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [
        f"{row['estimator']}, K = {row['K']}, T = {row['T']}: {row['note']}" for row in rows if row["note"]
    ]
    references = dict.fromkeys(f"reference: {row['reference']}" for row in rows if "reference" in row)
    return [*references, *notes]


def report(result: dict[str, Any]) -> str:
    """The table, for a paper's repository."""
    rows, about = result["rows"], result["config"]
    title = f"One hypergradient: {about['learner']} on {about['dataset']}, {result['environment']['device']}"
    table = as_markdown(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in rows])
    return "\n".join([title, "", table, EXPLAINED, "", *(f"- {note}" for note in _notes(rows))]) + "\n"


def show(result: dict[str, Any]) -> None:
    """Prints the table and the notes; a column that says nothing is left out."""
    cells = {name: [cell(row) for row in result["rows"]] for name, cell in COLUMNS.items()}
    if len(set(cells["K"])) == 1:
        del cells["K"]
    cells = {name: column for name, column in cells.items() if set(column) != {"-"}}
    about = result["config"]
    progress.table(
        f"\nOne hypergradient: {about['learner']} on {about['dataset']}",
        list(cells),
        list(zip(*cells.values(), strict=True)),
    )
    for note in _notes(result["rows"]):
        progress.say(note)
