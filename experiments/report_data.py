"""The rows of a report: read from studies and from runs of `experiments.distill`, and checked."""

import base64
import contextlib
import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import build, cli, distill, gradients
from experiments.banks import KINDS
from experiments.options import complete
from jaxdistill.core.checks import UserError, fail
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.report_pictures import picture

Row = dict[str, Any]
ABOUT = ("name", "teacher", "gradient", "change", "reading", "try", "seed", "learner", "dataset", "full_size")
ABOUT += ("command", "identity", "environment", "status", "note")
"""What every row says."""
MEASURED = (
    "images",
    "outer_steps",
    "seconds",
    "seconds_per_step",
    "as_distilled",
    "accuracies",
    "diagnostics",
)
MEASURED += ("hard_labels", "compile_seconds", "program_bytes")
"""What a finished row says besides."""
OF_AUTO = ("memory_budget", "allow_implicit")
"""What `gradient=auto` was chosen by: the config has what it chose."""
BRINGING = ("method", "teacher", "learner", "gradient")
"""Options that others' defaults depend on."""
VERSIONS = ("jaxdistill", "commit", "jax", "jaxlib", "flax", "optax", "python", "device")
"""Of an environment, what rows are compared by."""
SAVED = "saved results"
REMEDY = "Delete it: the command that wrote it makes it again."
OF_BASELINES = ("what", "images", "architecture", "protocol", "dataset", "learner", "every")


def read_rows(path: Path) -> list[Row]:
    """Of a study's folder: every row there is, in the order of their names."""
    return [read_row(file) for file in sorted((path / "rows").glob("*.json"))]


def checked_rows(path: Path) -> list[Row]:
    """The same, each with what a report reads.

    Raises:
      UserError: one that is damaged; names its file.
    """
    rows = []
    for file in sorted((path / "rows").glob("*.json")):
        rows.append(read_row(file))
        check_rows(rows[-1:], file)
    return rows


def read_row(file: Path) -> Row:
    """A row of a study, or of its search.

    Raises:
      UserError: it cannot be read, or is no row.
    """
    row = read_json(file)
    if not isinstance(row, dict):
        raise fail(SAVED, f"a row in {file}", "something else", REMEDY)
    return row


def load(path: str | Path) -> tuple[list[Row], list[Row]]:
    """The rows and baselines of a study, or of a run of `experiments.distill`.

    Args:
      path: a study's folder, its rows.json, or a run directory.

    Raises:
      UserError: it is none of these, or cannot be read.
    """
    place = Path(path)
    if place.is_dir() and (place / "rows").is_dir():
        baselines = place / "baselines.json"
        found = checked_rows(place), read_json(baselines) if baselines.exists() else []
    elif place.is_dir() and (place / "result.json").exists():
        return _of_run(place, read_json(place / "result.json"))
    elif place.is_file() or (place / "rows.json").exists():
        place = place if place.is_file() else place / "rows.json"
        content = read_json(place)
        if not isinstance(content, dict) or {"rows", "baselines"} - content.keys():
            raise fail("report", "rows.json of a study, or a run directory", str(path))
        found = content["rows"], content["baselines"]
    else:
        expected = "a folder of experiments.study, or a finished run of experiments.distill"
        raise fail("report", expected, f"{path} with neither rows nor result.json")
    check_rows(found[0], path)
    check_rows(found[1], path, OF_BASELINES)
    return found


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail(SAVED, f"a readable {file}", error, REMEDY) from error


def check_rows(rows: Any, path: str | Path, needed: Sequence[str] = ABOUT) -> None:
    """Raises unless these have the fields that a report reads, each of its kind.

    Raises:
      UserError: names the file, or the folder, and the field.
    """
    expected = f"rows of experiments.study in {path}"
    if not isinstance(rows, list):
        raise fail(SAVED, expected, type(rows).__name__)
    for row in rows:
        if isinstance(row, dict) and "outer_learning_rate" in row:
            raise fail(SAVED, expected, "those of experiments.study_search")
        wanted = (*needed, *MEASURED) if isinstance(row, dict) and row.get("status") == "done" else needed
        missing = [name for name in wanted if not isinstance(row, dict) or name not in row]
        if missing:
            raise fail(SAVED, expected, f"one without the field {missing[0]!r}", REMEDY)
        wrong = [name for name in KINDS_OF_FIELDS if name in row and not KINDS_OF_FIELDS[name](row[name])]
        if wrong:
            got = f"{row[wrong[0]]!r}"
            raise fail(SAVED, expected, f"{wrong[0]} = {got if len(got) < 60 else got[:60] + '...'}", REMEDY)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(one is None or _number(one) for one in value)


def _score(value: Any) -> bool:
    return isinstance(value, dict) and _numbers(value.get("every"))


def _scores(value: Any) -> bool:
    texts = ("architecture", "protocol")
    return isinstance(value, list) and all(
        _score(one) and all(_text(one.get(name)) for name in texts) for one in value
    )


def _picture(value: Any) -> bool:
    from matplotlib import image

    try:
        image.imread(io.BytesIO(decoded(value)))
    except Exception:  # whatever is wrong with it: readers of images raise anything
        return False
    return True


def decoded(picture: str) -> bytes:
    """The PNG of a data URI."""
    return base64.b64decode(picture.partition(",")[2])


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def _by_name(value: Any) -> bool:
    return isinstance(value, dict)


TEXTS = ("name", "teacher", "gradient", "change", "reading", "learner", "dataset", "command", "identity")
TEXTS += ("status", "note", "what", "architecture", "protocol")
NUMBERS = ("images", "outer_steps", "seconds", "seconds_per_step", "seed", "try")
KINDS_OF_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(NUMBERS, _number),
    **dict.fromkeys(("compile_seconds", "program_bytes", "all_bytes", "wall_seconds"), _or_none(_number)),
    **dict.fromkeys(("as_distilled", "hard_labels"), _or_none(_score)),
    **dict.fromkeys(("environment", "diagnostics"), _by_name),
    "accuracies": _scores,
    "every": _numbers,
    "picture": _or_none(_picture),
}
"""What a field of a row or of a baseline has to be."""


def _of_run(path: Path, result: Any) -> tuple[list[Row], list[Row]]:
    """A run of `experiments.distill` as a row of a study."""
    needed = (
        "test_accuracies",
        "test_accuracy_step_size",
        "protocol",
        "seconds",
        "outer_steps",
        "environment",
    )
    config = result.get("config") if isinstance(result, dict) else None
    if not isinstance(config, dict) or "method" not in config or any(name not in result for name in needed):
        raise fail("report", "a finished run of experiments.distill", f"another experiment's in {path}")
    synthetic = read_synthetic(path / "synthetic.npz")
    score = {"every": result["test_accuracies"], "step_size": result["test_accuracy_step_size"]}
    own = result["protocol"] == "as_distilled"
    options = [f"{n}={config[n]}" for n in build.LEARNER_OPTIONS if config.get(n) is not None]
    learner = ":".join([config["learner"], *options])
    gradient = config["gradient"] if own or config["method"] == "mtt" else config["method"]
    kind = KINDS.get(config["population"])
    bank = [f"--{kind.option}=FOLDER"] if kind else []  # a run does not say where its networks were
    hard = np.isin(synthetic.labels, (0, 1)).all()
    row: Row = {
        "name": path.name,
        "teacher": config["teacher"],
        "gradient": f"{gradient} ({path.name})",
        "change": "",
        "reading": "images",
        "try": 0,
        "seed": config["seed"],
        "learner": learner,
        "dataset": config["dataset"],
        "full_size": True,
        "command": shlex.join(["python", "-m", "experiments.distill", *cli.as_flags(chosen(config)), *bank]),
        "identity": shlex.quote(str(path.resolve())),
        "environment": result["environment"],
        "status": "done",
        "note": "",
        "images": len(synthetic.labels),
        "as_distilled": score if own else None,
        "accuracies": [] if own else [{"architecture": learner, "protocol": result["protocol"], **score}],
        "hard_labels": None if hard else {"every": []},  # not measured
        "seconds_per_step": result["seconds"] / max(1, result["outer_steps"]),
        "diagnostics": {},
        "picture": encoded(synthetic.pixels, synthetic.labels, synthetic.metadata.get("scale")),
        **{name: result.get(name) for name in ("outer_steps", "seconds", "compile_seconds")},
        **{name: result.get(name) for name in ("program_bytes", "all_bytes")},
    }
    shared = {
        "images": row["images"],
        "dataset": config["dataset"],
        "learner": learner,
        "architecture": learner,
    }
    baselines = [
        {
            "what": what,
            **shared,
            "protocol": result[f"{prefix}_protocol"],
            "every": result[f"{prefix}_accuracies"],
            "column": "as_distilled" if own else None,
        }
        for what, prefix in (("random real", "random_real"), ("full set", "full_data"))
        if result.get(f"{prefix}_mean") is not None
    ]
    return [row], baselines


def chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that are no defaults, of its method and others: what makes it again."""
    found: dict[str, Any] = {}
    while True:
        default = complete(distill.GROUPS, found)
        with contextlib.suppress(UserError):  # what is still to be added makes it whole
            default = gradients.resolve(build.with_inner_loop(default))
        others = (n for n in default if config.get(n) is not None and config[n] != default[n])
        name = min((n for n in others if n not in OF_AUTO), key=lambda n: n not in BRINGING, default=None)
        if name is None:
            return found
        found[name] = config[name]


def encoded(pixels: np.ndarray, labels: np.ndarray, scale: float | None) -> str | None:
    """A picture of images [N, H, W, C] with labels [N, classes], as a data URI.

    None where they are neither grey nor of three colours.
    """
    if pixels.shape[-1] not in (1, 3):
        return None
    made = picture(pixels, labels.argmax(axis=-1), scale=scale)
    return f"data:image/png;base64,{base64.b64encode(made).decode()}"


def without_repeats(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """(the rows, each once; what a reader has to know of that).

    The same run may be in a folder and in the rows.json of another report. A cell that was made again with
    the same options and seed is no second try: the first finished one is taken, of full size if there is one.
    """
    different = {json.dumps(row, sort_keys=True): row for row in rows}.values()
    kept: dict[tuple, Row] = {}
    for row in sorted(different, key=lambda row: (row["status"] != "done", not row["full_size"])):
        names = ("identity", "reading", "dataset", "learner", "seed", "change")
        kept.setdefault((*(row[name] for name in names), row.get("time_limit")), row)
    again = len(different) - len(kept)
    said = f"{again} rows of the same options and seed as others are left out: the first of each is shown."
    shown = set(map(id, kept.values()))
    return [row for row in different if id(row) in shown], [said] if again else []


def check_finished(rows: Sequence[Row], where: str) -> None:
    """Raises where there is nothing to report.

    Raises:
      UserError: no row is finished; says why each failed.
    """
    if any(row["status"] == "done" for row in rows):
        return
    why = "; ".join(dict.fromkeys(row["note"] for row in rows))
    got = f"none of {len(rows)}" + (f" ({why})" if why else "")
    raise UserError(f"report: expected at least one finished cell in {where}, got {got}.")


def cautions(rows: Sequence[Row], baselines: Sequence[Row] = ()) -> list[str]:
    """What a reader has to know: mixed versions, small cells, failures, times that are off.

    Args:
      rows: of the report.
      baselines: of the report.

    Returns:
      A sentence each.
    """
    found = []
    for name in VERSIONS:
        kinds: dict[Any, list[str]] = {}
        for row in rows:
            kinds.setdefault(row["environment"].get(name), []).append(_name(row))
        for row in baselines:
            if "environment" in row:
                kinds.setdefault(row["environment"].get(name), []).append(f"{row['what']} images")
        if len(kinds) > 1:
            shown = short_commit if name == "commit" else str
            parts = "; ".join(f"{shown(kind)}: {_some(names)}" for kind, names in kinds.items())
            found.append(f"Rows of mixed versions, {name}: {parts}.")
    small = [row for row in rows if not row["full_size"]]
    if small:
        many = "All" if len(small) == len(rows) else f"{len(small)} of {len(rows)}"
        found.append(
            f"{many} rows are smaller than the preset (network, images, outer steps, time or evaluation)."
        )
    off = [row for row in rows if _off(row)]
    if off:
        least, most = (end(row["seconds"] for row in off) for end in (min, max))
        found.append(
            f"{len(off)} rows at equal time are more than a tenth off it, {least:.3g} to {most:.3g} s: the "
            "machine's load changed after their steps were timed, or their steps take longer as they go on."
        )
    for row in rows:
        if row["status"] != "done":
            found.append(f"Failed: {_name(row)} (seed {row['seed']}): {row['note']}")
    for row in baselines:
        if row.get("note"):
            found.append(f"Failed: {row['what']} images, {row['architecture']}: {row['note']}")
    return found


def short_commit(commit: str | None) -> str:
    """With what says that files were changed."""
    name, mark, rest = (commit or "unknown").partition("-")
    return name[:12] + mark + rest


def _off(row: Mapping[str, Any]) -> bool:
    limit = row.get("time_limit")
    return row["status"] == "done" and limit is not None and abs(row["seconds"] / limit - 1) > 0.1


def _name(row: Mapping[str, Any]) -> str:
    cell = ", ".join(part for part in (row["teacher"], row["gradient"], row["change"]) if part)
    return f"{cell}, equal {row['reading']}, try {row['try'] + 1}"


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
