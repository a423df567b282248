"""What a table of a report shows, in sentences."""

from experiments.report.tables import Table
from experiments.report.values import Value, percent, tied


def findings(table: Table) -> list[str]:
    """What the study asks, as far as a table answers it.

    Args:
      table: of a grid; ablations answer other questions.

    Returns:
      A sentence per comparison: with unrolled gradients of the same teacher, and of a generator with images.
      None of a cell that is there twice, with other options.
    """
    if table.changed:
        return []
    every = [(line.teacher, line.gradient) for line in table.lines if line.rows]
    by_cell = {
        (line.teacher, line.gradient): line
        for line in table.lines
        if every.count((line.teacher, line.gradient)) == 1
    }
    found = []
    for (teacher, _), line in by_cell.items():
        base = by_cell.get((teacher, "unrolled"))
        needed = {"own", "memory", "step"}
        if base is None or line is base or not needed <= line.values.keys() & base.values.keys():
            continue
        memory, step = (line.values[n].mean / base.values[n].mean for n in ("memory", "step"))
        found.append(
            f"{line.label}: {_against(line.values['own'], base.values['own'])} unrolled, "
            f"{memory:.2g} times its memory, {step:.2g} times its time per outer step."
        )
    for (teacher, gradient), line in by_cell.items():
        other = by_cell.get(("images", gradient))
        if teacher == "generator" and other and "others" in line.values.keys() & other.values.keys():
            name = gradient.replace("_", " ")
            found.append(
                f"Other networks, {name}: generator "
                f"{_against(line.values['others'], other.values['others'])} learned images."
            )
    return found


def _against(one: Value, other: Value) -> str:
    word = "ties with" if tied(one, other) else ("ahead of" if one.mean > other.mean else "behind")
    return f"{percent(one)} {word} {percent(other)} of"
