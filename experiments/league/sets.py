"""Copies the sets that a league tested into one folder, each with its flags and its SHA-256."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.league.page import percent
from experiments.league.setting import League
from experiments.league.table import DIRTY, SAYS
from experiments.tables import as_markdown
from jaxdistill.core.checks import fail
from jaxdistill.core.sizes import format_bytes
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_folder

MOST_BYTES = 8 * 10**6
"""All files of a folder of sets together."""
OWN = ("README.md", "SHA256SUMS")
EXAMPLE = '''import numpy as np

file = np.load("{name}.npz")
x, y = file["x_standardised"].reshape(len(file["y"]), -1), np.eye(len(file["class_names"]))[file["y"]]
weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=1e-3)[0]  # a linear classifier


def classes(pixels):
    """The class of each image [N, H, W, C] in raw pixels."""
    seen = (pixels / file["scale"] - file["mean"]) / file["std"]
    return (np.c_[seen.reshape(len(seen), -1), np.ones(len(seen))] @ weights).argmax(axis=1)
'''


def release(folder: Path, run_dir: Path, result: Mapping[str, Any], league: League) -> None:
    """Writes NAME.npz and NAME.cfg of every set, SHA256SUMS and README.md.

    Args:
      folder: to write; one that a league wrote before is replaced.
      run_dir: of the league.
      result: its rows and lines.
      league: the league.

    Raises:
      UserError: a set that has changed since it was tested; more than 8 MB; a folder with other files.
    """
    check_folder(folder)
    files: dict[str, bytes] = {}
    shown = [row for row in result["rows"] if row["status"] == "done" and "sha256" in row]
    for row in shown:
        stem, place = row["entry"].replace(" ", "_"), run_dir / row["set"]
        content = place.read_bytes() if place.is_file() else b""
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            remedy = f"Delete {run_dir / 'rows' / f'{stem}.json'} to have the row made again."
            raise fail("league", f"the set that was tested in {place}", "another file or none", remedy)
        files[f"{stem}.npz"] = content
        if "flags" in row:
            files[f"{stem}.cfg"] = _flag_file(row).encode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    files["SHA256SUMS"] = "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()
    files["README.md"] = _readme(shown, sums, result, league).encode()
    if (size := sum(map(len, files.values()))) > MOST_BYTES:
        expected = f"sets of at most {format_bytes(MOST_BYTES)} in all"
        raise fail("league", expected, format_bytes(size), "Give fewer --methods or a smaller --budget.")

    def write(new: Path) -> None:
        for name, content in files.items():
            (new / name).write_bytes(content)

    atomic_folder(folder, write)
    progress.say(f"{len(shown)} sets, {format_bytes(size)}: {folder}")


def check_folder(folder: Path) -> None:
    """Raises unless a folder is a new one, or has the files of a release alone.

    Raises:
      UserError: a file, or a folder with other files; names one.
    """
    others = [p.name for p in folder.glob("*") if p.name not in OWN and p.suffix not in (".npz", ".cfg")]
    if others or (folder.exists() and not folder.is_dir()):
        got = f"{folder} with {others[0]}" if others else f"{folder}, a file"
        raise fail("league", "sets as a new folder, or one with sets alone", got, "Choose another.")


def _flag_file(row: Mapping[str, Any]) -> str:
    """The flags of the candidate that was tested."""
    needs = " --experts=FOLDER, after experiments.experts" if row["preparation_seconds"] else ""
    about = (
        f"# {row['title']} on {row['dataset']}, {row['budget']}: the set {row['entry']}.npz of this folder.\n"
    )
    how = f"# python -m experiments.distill --flagfile={row['entry']}.cfg{needs}\n"
    return about + how + "".join(f"{flag}\n" for flag in row["flags"])


def _readme(shown: Any, sums: Mapping[str, str], result: Mapping[str, Any], league: League) -> str:
    lines = [line for line in result["lines"] if line.get("sha256")]
    columns = ["set", "labels", "accuracy, %", "images", "scalars", "commit", "SHA-256"]
    cells = []
    for line in lines:
        stem = line["entry"].replace(" ", "_")
        name = f"`{stem}.npz`" + (f" {DIRTY}" if line["dirty"] else "")
        sizes = [f"{line[n]:,}" for n in ("images_trained_on", "scalars_stored")]
        cells.append([name, line["labels"], percent(line, ""), *sizes, line["commit"], sums[f"{stem}.npz"]])
    first = next((row["entry"] for row in shown if row["kind"] == "method"), shown[0]["entry"])
    parts = [f"# Sets of {league.title}", ""]
    parts += [f"The sets that `experiments.league` tested. {SAYS}", ""]
    parts += (
        [f"{DIRTY}: made by a checkout with changed files.", ""] if any(x["dirty"] for x in lines) else []
    )
    parts += [as_markdown(columns, cells)]
    parts += [
        "`sha256sum -c SHA256SUMS` checks the files. NAME.cfg has the flags that distill NAME.npz. NumPy",
        "",
    ]
    parts[-2] += " trains on a set in one line:"
    parts += ["```python", EXAMPLE.format(name=first.replace(" ", "_")).rstrip(), "```"]
    return "\n".join(parts) + "\n"
