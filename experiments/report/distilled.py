"""A run of `experiments.distill` as a row of a report."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli import as_flags
from experiments.report.fields import BaselineRow, CellRow
from experiments.report.pictures import encoded
from jaxdistill.config.owners import acts, brought
from jaxdistill.config.resolve import defaults
from jaxdistill.config.saved import config_from
from jaxdistill.config.table import LEARNER_OPTIONS, Config
from jaxdistill.core.checks import fail
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts, recipe_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of
from jaxdistill.runs.banks import BANKS
from jaxdistill.runtime.export import Synthetic, read_synthetic

NEEDED = ("test_accuracies", "test_accuracy_step_size", "protocol", "seconds", "outer_steps", "environment")
"""The fields of `result.json` that a row is made of, beside the config."""


def rows_of_run(
    path: Path, result: Any, chosen: Mapping[str, Any] | None
) -> tuple[list[CellRow], list[BaselineRow]]:
    """A finished run and its baselines.

    Args:
      path: its folder.
      result: the content of its `result.json`.
      chosen: the options that the user chose; None of a run by an older version, which did not keep them.

    Returns:
      (one row, a row per baseline).

    Raises:
      UserError: the folder holds a result of another experiment.
    """
    saved = result.get("config") if isinstance(result, dict) else None
    if not isinstance(saved, dict) or "method" not in saved or any(name not in result for name in NEEDED):
        raise fail("report", "a finished run of experiments.distill", f"another experiment's in {path}")
    synthetic = read_synthetic(path / "synthetic.npz")
    if chosen is None:
        chosen = differing(saved, facts_of(synthetic), str(path))
    score = {"every": result["test_accuracies"], "step_size": result["test_accuracy_step_size"]}
    own = result["protocol"] == "as_distilled"
    learner = learner_of(saved)
    hard = np.isin(synthetic.labels, (0, 1)).all()
    flags = [*as_flags(chosen), *_bank(saved)]
    row: CellRow = {
        "name": path.name,
        "teacher": saved["teacher"],
        "gradient": f"{title_of(saved)} ({path.name})",
        "change": "",
        "reading": "images",
        "try": 0,
        "seed": saved["seed"],
        "learner": learner,
        "dataset": saved["dataset"],
        "full_size": True,
        "command": shlex.join(["python", "-m", "experiments.distill", *flags]),
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
        **{name: result.get(name) for name in ("scalars_stored", "bits_per_class")},
    }
    return [row], _baselines(result, row)


def _baselines(result: Mapping[str, Any], row: CellRow) -> list[BaselineRow]:
    """A row for each baseline that the result of a run has."""
    shared = {name: row[name] for name in ("images", "dataset", "learner")} | {"architecture": row["learner"]}
    return [
        {
            "what": what,
            **shared,
            "protocol": result[f"{prefix}_protocol"],
            "every": result[f"{prefix}_accuracies"],
            "column": "as_distilled" if row["as_distilled"] else None,
        }
        for what, prefix in (("random real", "random_real"), ("full set", "full_data"))
        if result.get(f"{prefix}_mean") is not None
    ]


def title_of(saved: Mapping[str, Any]) -> str:
    """What the column of gradients says: the method's name in words, and its gradient if it trains.

    Args:
      saved: as a result holds it. A method that is not registered in this process keeps its plain name.

    Example:
      >>> title_of({"method": "dd", "gradient": "implicit"})
      'Dataset Distillation, implicit'
    """
    name = saved["method"]
    if name not in METHODS:
        return name
    recipe = recipe_of(METHODS[name])
    return f"{recipe.title}, {saved['gradient']}" if recipe.trains else recipe.title


def learner_of(saved: Mapping[str, Any]) -> str:
    """The network with its options as one text: `convnet:width=32`."""
    values = {name: saved[name] for name in LEARNER_OPTIONS if saved.get(name) is not None}
    texts = {n: "-".join(map(str, v)) if isinstance(v, list | tuple) else v for n, v in values.items()}
    options = [f"{name}={text}" for name, text in texts.items()]
    return ":".join([saved["learner"], *options])


def facts_of(synthetic: Synthetic) -> Facts:
    """What is known of a data set from images that were distilled from it."""
    height, width, channels = synthetic.pixels.shape[1:]
    return Facts((height, width, channels), synthetic.labels.shape[1])


def differing(saved: Mapping[str, Any], facts: Facts, where: str) -> dict[str, Any]:
    """The options of a saved config that are no defaults: the flags that make the run again.

    Args:
      saved: every option of a run.
      facts: of its images.
      where: its folder, for errors.

    Returns:
      The options that act and would have another value if they alone were left out.

    Raises:
      UserError: options that this version does not know.
    """
    config = config_from(saved, where)
    values = defaults(config, facts)
    table = Config.options() | brought(Config, config.chosen())
    acting = {name: value for name, value in config.chosen().items() if acts(table[name], values)}

    def left_out(name: str) -> Any:
        others = {n: v for n, v in acting.items() if n != name}
        kept = Config.options() | brought(Config, others)  # a member that is left out brings no options
        without = Config(**{n: v for n, v in others.items() if n in kept})
        return defaults(without, facts).get(name, table[name].default)

    return {name: value for name, value in acting.items() if left_out(name) != value}


def _bank(saved: Mapping[str, Any]) -> list[str]:
    """The flag of the networks that a run drew from; a run does not say where they were."""
    name = str(saved.get("population"))
    bank = source_of(POPULATIONS[name]).bank if name in POPULATIONS else None
    return [] if bank is None else [f"--{BANKS[bank].option}=FOLDER"]
