"""Rows of studies made by hand, which tests of reports read."""

import json

import numpy as np

from experiments.report.pictures import encoded

NET = "mlp:width=8"
PICTURE = encoded(np.zeros((2, 4, 4, 1)), np.eye(2), 16)
ENVIRONMENT = {"jaxdistill": "0.1", "jax": "0.10.2", "device": "cpu", "commit": "abc"}


def scores(mean, spread=0.02, **about):
    return {"every": [mean - spread, mean + spread], "step_size": 0.1, "num_diverged": 0, **about}


def row(teacher="images", gradient="unrolled", own=0.9, other=0.8, **more):
    """A finished cell of two networks per architecture."""
    accuracies = [
        scores(own, architecture=NET, protocol="dc"),
        scores(own - 0.1, architecture=NET, protocol="dc_augmented"),
        scores(other, architecture="linear", protocol="dc"),
    ]
    return {
        "name": f"{teacher}-{gradient}",
        "teacher": teacher,
        "gradient": gradient,
        "change": "",
        "reading": "images",
        "try": 0,
        "seed": 0,
        "learner": NET,
        "dataset": "digits",
        "full_size": True,
        "command": f"python -m experiments.distill --teacher={teacher}",
        "identity": f"{teacher} {gradient} {more}" if more.get("change") else f"{teacher} {gradient}",
        "environment": ENVIRONMENT,
        "status": "done",
        "note": "",
        "images": 10,
        "as_distilled": None,
        "accuracies": accuracies,
        "hard_labels": None,
        "outer_steps": 20,
        "seconds": 2.0,
        "seconds_per_step": 0.1,
        "compile_seconds": 1.0,
        "program_bytes": 2**20,
        "diagnostics": {},
        "picture": PICTURE,
    } | more


def failed(**more):
    kept = ("accuracies", "images", "seconds", "seconds_per_step", "program_bytes", "picture", "outer_steps")
    made = row(**more) | {"status": "failed", "note": "out of memory: <script>"}
    return {name: value for name, value in made.items() if name not in kept}


OF = {"dataset": "digits", "learner": NET}
BASELINES = [
    {"what": "random real", "images": 10, **OF, **scores(0.6, architecture=NET, protocol="dc")},
    {"what": "random real", "images": 10, **OF, **scores(0.4, architecture=NET, protocol="dc_augmented")},
    {"what": "full set", "images": 1000, **OF, **scores(0.95, architecture=NET, protocol="20 epochs")},
]


def save(folder, rows, baselines=()):
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_text(json.dumps({"rows": rows, "baselines": list(baselines)}))
    return str(folder / "rows.json")
