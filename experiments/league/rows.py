"""Makes the rows of a league: every part of a row is a file, and what is there is not made again."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.league.entries import Candidate, Entry, command, config_of
from experiments.league.scores import by_labels, of_random_real, on_validation, scored, training
from experiments.league.setting import League
from experiments.measure import fitting
from experiments.records import REMEDY, SAVED, read_row
from experiments.report.pictures import encoded
from jaxdistill.baselines import average_real, k_means, kernel_herding
from jaxdistill.config.table import AugmentOptions, DeviceOptions, NetworkOptions
from jaxdistill.core.checks import UserError, fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Batch
from jaxdistill.data import check_per_class, to_pixels
from jaxdistill.runs.bank_training import ExpertOptions, train_experts
from jaxdistill.runs.baseline_files import save_sets
from jaxdistill.runs.budget import OUT_OF_MEMORY
from jaxdistill.runs.compare import full_set, random_images
from jaxdistill.runs.distill import distilled, opened, reading_of
from jaxdistill.runs.networks import of_new_networks
from jaxdistill.runs.plan import Plan, planned
from jaxdistill.runs.result import storage
from jaxdistill.runs.run import Run
from jaxdistill.runtime import mesh, progress
from jaxdistill.runtime.profile import git_commit
from jaxdistill.runtime.rundir import Held, RunDir
from jaxdistill.teachers.storage import counted, images_within

Part = dict[str, Any]
BASELINES = {
    "random real": "random real images, others for every network",
    "k-means": "cluster centres of each class",
    "kernel herding": "real images whose kernel mean is that of their class",
    "average real": "average images of parts of each class",
}
"""Sets that are not learned, and what they are."""
FULL = "full set"


class RowFolder(NamedTuple):
    """Where the parts of one row are kept."""

    directory: RunDir
    commits: set[str]
    """The commits that made the parts so far."""

    def part(self, name: str, needed: Sequence[str], make: Callable[[], Mapping[str, Any]]) -> Part:
        """A part of the row: read where it is there, made and written where not.

        Raises:
          UserError: the file is damaged; names it.
        """
        file = self.directory.path / "parts" / f"{name.replace(':', '-')}.json"
        if not file.exists():
            self.directory.write_json(file, {**make(), "commit": str(git_commit())})
        found = checked_part(read_row(file), file, needed)
        self.commits.add(found["commit"])
        return found


def checked_part(found: Part, file: Path, needed: Sequence[str] = ()) -> Part:
    """A part of a row that has these fields, and the commit that made it.

    Raises:
      UserError: the file is damaged; names it.
    """
    if missing := [field for field in ("commit", *needed) if field not in found]:
        raise fail(SAVED, f"{missing[0]} in {file}", "none", REMEDY)
    return found


def of_method(league: League, directory: RunDir, entry: Entry) -> dict[str, Any]:
    """The measured fields of a method's row.

    Raises:
      UserError: no candidate could be distilled, or what it stores is beyond the budget; says why.
    """
    made = RowFolder(directory, set())
    if "budget" not in entry.options:
        _check_storage(league, entry)
    before = experts(league, made, entry)
    share = league.options.seconds_per_method / len(entry.candidates)
    tried = [_tried(league, made, entry, each, before["folder"], share) for each in entry.candidates]
    tried += [{"name": each.name, "change": each.change, "note": why} for each, why in entry.left_out]
    done = [row for row in tried if "note" not in row]
    if not done:
        raise UserError(tried[0]["note"])
    best = max(done, key=lambda row: row["validation"])
    (candidate,) = (each for each in entry.candidates if each.name == best["name"])
    run = _distilled(league, made, entry, candidate, before["folder"], best["outer_steps"])
    images, labels, _ = run.synthetic
    scores = _scores(league, made, entry.method, by_labels(images, labels, run.config.labels))
    options = {**entry.options, **candidate.change, "num_outer_steps": best["outer_steps"]}
    file = directory.path / "cells" / candidate.name / "synthetic.npz"
    return {
        "scores": scores,
        "candidates": tried,
        "chosen": candidate.name,
        **storage(run),
        **{n: best[n] for n in ("outer_steps", "seconds", "seconds_per_step", "program_bytes", "all_bytes")},
        "searched_seconds": sum(row["seconds"] for row in done),
        "preparation_seconds": before["seconds"],
        "command": " ".join(["python -m experiments.distill", *command(league, options)]),
        "flags": command(league, options),
        **_set_fields(league, directory, file, images, labels),
        "commits": sorted(made.commits),
    }


def _tried(
    league: League, made: RowFolder, entry: Entry, candidate: Candidate, experts: str | None, share: float
) -> Part:
    """One candidate, distilled in its share of the time and scored on validation; `note` where it failed."""
    progress.say(f"{candidate.name} ...")
    about = {"name": candidate.name, "change": candidate.change}
    try:
        fit = made.part(
            f"steps-{candidate.program}",
            ("num_outer_steps", "seconds_per_step", "program_bytes", "all_bytes"),
            lambda: fitting(_plan(league, entry, candidate, experts), share),
        )
        steps = fit["num_outer_steps"]

        def validated() -> Part:
            run = _distilled(league, made, entry, candidate, experts, steps)
            sets = by_labels(run.synthetic.images, run.synthetic.labels, run.config.labels)
            best = sets.get("soft", sets["hard"])
            took = {"seconds": run.finished.seconds, "compile_seconds": run.finished.compile_seconds}
            return {"validation": on_validation(league, *best), **took}

        times = ("seconds", "compile_seconds")
        found = made.part(f"validation-{candidate.name}", ("validation", *times), validated)
    except Held:
        raise
    except (UserError, *OUT_OF_MEMORY) as error:
        text = " ".join(str(error).split())[:300]
        if text.startswith(SAVED):
            raise
        progress.say(f"{candidate.name} failed: {text}")
        return about | {"note": text}
    sizes = {name: fit[name] for name in ("seconds_per_step", "program_bytes", "all_bytes")}
    return about | {n: found[n] for n in ("validation", *times)} | {"outer_steps": steps} | sizes


def _plan(league: League, entry: Entry, candidate: Candidate, experts: str | None, **more: Any) -> Plan:
    """The plan of a candidate."""
    bank = {} if experts is None else {"experts": experts}
    return planned(config_of(league, entry, candidate, **bank, **more), data=league.data)


def _check_storage(league: League, entry: Entry) -> None:
    """Raises where a teacher that is no set of images stores more than the budget."""
    plan = _plan(league, entry, entry.candidates[0], None)
    stored = plan.method.stored(jax.jit(plan.method.init)(plan.key))
    if stored.bits > league.budget.bits or stored.scalars > league.budget.scalars:
        got = f"{stored.scalars:,} scalars of its {plan.config.teacher}"
        raise fail("budget", f"at most {league.options.budget} with method={entry.method}", got)


def _distilled(
    league: League, made: RowFolder, entry: Entry, candidate: Candidate, experts: str | None, steps: int
) -> Run:
    """The run of a candidate, finished; one that was stopped is resumed."""
    plan = _plan(league, entry, candidate, experts, num_outer_steps=steps)
    with opened(plan, made.directory.path / "cells" / candidate.name) as directory:
        made.commits.add(str((directory.environment or {}).get("commit")))  # that it started with
        return distilled(plan, directory)


def experts(league: League, made: RowFolder, entry: Entry) -> Part:
    """The experts of a method that follows some: `folder` (None for others) and the seconds they took.

    The seconds are those of the last start, if their training was stopped.
    """
    if not entry.follows_experts:
        return {"folder": None, "seconds": 0.0}
    folder = str(made.directory.path / "experts")
    options = league.options
    names = (*NetworkOptions.options(), *AugmentOptions.options())
    chosen = {name: value for name, value in entry.options.items() if name in names}
    devices = {name: getattr(options, name) for name in DeviceOptions.options()}

    def train() -> Part:
        began = time.perf_counter()
        sizes = {"num_experts": options.num_experts, "num_epochs": options.num_expert_epochs}
        train_experts(options.pick(ExpertOptions, run_dir=folder, **chosen, **devices, **sizes))
        return {"seconds": time.perf_counter() - began}

    return {"folder": folder, **made.part("experts", ("seconds",), train)}


def _scores(
    league: League, made: RowFolder, name: str, sets: Mapping[str, tuple[Batch, str]]
) -> list[dict[str, Any]]:
    """Every architecture by the protocol, and the first also under augmentation; for each kind of labels."""
    found = []
    for labels, (images, kind) in sets.items():
        for architecture, protocol in _tests(league):
            progress.say(f"testing {name}: {labels} labels, {architecture}, {protocol} ...")
            stem = f"score-{name.replace(' ', '_')}-{labels}-{architecture}-{protocol}"
            score = made.part(
                stem,
                ("mean", "std", "every", "protocol"),
                lambda a=architecture, p=protocol, i=images, k=kind: scored(league, a, p, i, k),
            )
            found.append({"labels": labels, **score})
    return found


def _tests(league: League) -> list[tuple[str, str]]:
    """(architecture, protocol) of every test of a set."""
    options = league.options
    tests = [(name, options.protocol) for name in league.learners]
    return list(dict.fromkeys([*tests, (league.own, options.augmented_protocol)]))


def of_baseline(league: League, directory: RunDir, name: str) -> dict[str, Any]:
    """The measured fields of a row of images that are not learned, of the same storage.

    Raises:
      UserError: not one image of each class fits the budget, or a class has too few.
    """
    made, data, info = RowFolder(directory, set()), league.data, league.data.info
    per_class = images_within(league.options.budget, "none", info.image_shape, info.num_classes)
    check_per_class(data.train, name, per_class)
    count = per_class * info.num_classes
    stored = counted(jax.eval_shape(lambda: {"images": jnp.zeros((count, *info.image_shape))}), {})
    sizes = {"images_trained_on": count, "scalars_stored": stored.scalars}
    sizes |= {"bits_per_class": stored.bits / info.num_classes}
    if name == "random real":
        scores = _of_random_real(league, made, per_class)
        return {**sizes, "scores": scores, "commits": sorted(made.commits), "seconds": None}
    key = stream(jax.random.key(league.options.seed), name)
    makers: dict[str, Callable[[], Batch]] = {
        "k-means": lambda: k_means(data.train, key, per_class),
        "kernel herding": lambda: kernel_herding(data.train, per_class),
        "average real": lambda: average_real(data.train, key, per_class),
    }
    began = time.perf_counter()
    batch = jax.block_until_ready(makers[name]())
    seconds = time.perf_counter() - began
    folder = directory.path / "sets"
    folder.mkdir(exist_ok=True)
    save_sets(folder, {name: batch}, info, reading_of(league.options, info))
    file = folder / f"{name.replace(' ', '_')}.npz"
    images, labels = np.asarray(batch.x), np.asarray(batch.y)
    scores = _scores(league, made, name, by_labels(images, labels, "probabilities"))
    more = {**_set_fields(league, directory, file, images, labels), "commits": sorted(made.commits)}
    return {**sizes, "scores": scores, "seconds": seconds, **more}


def _of_random_real(league: League, made: RowFolder, per_class: int) -> list[dict[str, Any]]:
    """As `_scores`, and under a squared loss what the scores of sets with free labels are compared with."""
    found = []
    tests = [(name, protocol, False) for name, protocol in _tests(league)]
    tests += [
        (name, protocol, True)
        for name, protocol in _tests(league)
        if name == league.own and training(league, protocol, 1).loss != "squared"
    ]
    for architecture, protocol, squared in tests:
        stem = f"score-random_real-{architecture}-{protocol}" + ("-squared" if squared else "")
        score = made.part(
            stem,
            ("mean", "std", "every", "protocol"),
            lambda a=architecture, p=protocol, s=squared: of_random_real(league, a, p, per_class, squared=s),
        )
        found.append({"labels": "squared" if squared else "hard", **score})
    return found


def of_full_set(league: League, directory: RunDir) -> dict[str, Any]:
    """The measured fields of the row of the training set without its validation part."""
    made, options, data = RowFolder(directory, set()), league.options, league.data
    evaluation = of_new_networks(league.learners[league.own], data, options, options.num_eval_learners)

    def train() -> Part:
        with mesh.spread(league.devices):
            found = full_set(evaluation, data, options)
        about = {"architecture": league.own, "protocol": options.protocol, "loss": "cross_entropy"}
        return about | found.found.score.as_row() | found.as_fields()

    score = made.part("score-full_set", ("mean", "std", "every"), train)
    images, _ = random_images(data, 1)
    return {
        "scores": [{"labels": "hard", **score}],
        "images_trained_on": len(images.y),
        "seconds": None,
        "commits": sorted(made.commits),
    }


def _set_fields(
    league: League, directory: RunDir, file: Path, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Where a tested set lies, its digest, and its picture."""
    info = league.data.info
    pixels = np.asarray(to_pixels(jnp.asarray(images), info))
    return {
        "set": file.relative_to(directory.path).as_posix(),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "picture": encoded(pixels, labels, info.scale),
    }
