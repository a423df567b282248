"""Tests images of a run or a file: networks train on them, and on as many random real images.

`evaluate` calls `prepared`, which checks everything and trains nothing, then `evaluated`, then `show`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from jaxdistill.config import build
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import (
    OWN_NETWORK,
    PLACES,
    DeviceOptions,
    MapOptions,
    SearchOptions,
    SeedOptions,
)
from jaxdistill.core.checks import fail
from jaxdistill.core.types import Batch, Learner
from jaxdistill.data import DatasetInfo, Splits
from jaxdistill.data.streaming import on_host
from jaxdistill.evaluation import PUBLISHED, STEP_SIZES, Protocol, Subsets, everything, score, tuned
from jaxdistill.evaluation.protocol import candidates
from jaxdistill.learners import LEARNERS
from jaxdistill.learners.spec import HOW_TO_MAKE, check_fits, parse_learner
from jaxdistill.runs.classes import class_counts, tested_unevenly
from jaxdistill.runs.compare import enough_real, random_images
from jaxdistill.runs.given_images import (
    Images,
    TestedOnOptions,
    content,
    protocols_for,
    real_data,
    standardised,
    tell_start,
)
from jaxdistill.runs.networks import of_new_networks
from jaxdistill.runs.protocols import paper_protocol
from jaxdistill.runs.reference import reference, steps_of
from jaxdistill.runs.run import Run
from jaxdistill.runtime import mesh as meshes
from jaxdistill.runtime import profile
from jaxdistill.runtime import progress as shown
from jaxdistill.runtime.expected_time import Shorter

Learners = str | Learner | Sequence[str | Learner] | Mapping[str, str | Learner]


@options
class EvaluateOptions(TestedOnOptions, SearchOptions, MapOptions, SeedOptions, DeviceOptions):
    """The options of `evaluate`."""

    title: ClassVar[str] = "evaluation"
    protocols: tuple[str, ...] = option(
        (),
        "how networks are trained (default: dc, and as_distilled if the file has the steps, or else frepo "
        "for free labels)",
        known="jaxdistill.evaluation.protocols:PROTOCOLS",
    )
    num_learners: int = option(20, "networks per cell of the table", low=1)
    num_epochs: int | None = option(
        None,
        "epochs of all protocols but as_distilled (default: the paper's number of epochs or steps)",
        low=1,
    )


class Prepared(NamedTuple):
    """A checked evaluation, before any training."""

    options: EvaluateOptions
    """Every option has a value."""
    images: Batch
    """[N, ...], standardised."""
    data: Splits
    """The data to test networks on."""
    protocols: dict[str, Protocol]
    """By column of the table."""
    learners: dict[str, Learner]
    """By row of the table."""
    real_per_class: int
    """Random real images of each class that the images are compared with; 0 for no such column."""
    devices: meshes.Layout | None
    """The devices; None for one."""
    config: dict[str, Any]
    """The options as a result has them, in JSON's types."""


def evaluate(
    images: Images,
    learners: Learners = ("convnet", "mlp", "linear"),
    *,
    protocols: Sequence[str] = (),
    num_learners: int = 20,
    num_search_learners: int = 5,
    step_sizes: Sequence[float] = STEP_SIZES,
    fresh_baselines: bool = False,
    num_epochs: int | None = None,
    data: Splits | str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    data_memory: str | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    channels: int | None = None,
    layout: str | None = None,
    scale: float | None = None,
    skip_broken: bool | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    preprocess: str | None = None,
    strategy: str = "auto",
    learner_chunk: int | None = None,
    mesh: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains fresh networks of any architectures on images alone, and tests them.

    For comparison other networks train on as many random real images, new ones for each network. A step size
    that is not the images' own is searched on validation.

    Args:
      images: a run; the path of an `.npz` with `x` and `y`, a run's or anyone's; what
        `jd.export` writes, but `latents`; a `.pt` of the code of DC, DSA, DM, MTT or DATM, such as
        `images_best.pt` (extra `torch`).
      learners: the architectures: texts such as `convnet:width=32:norm=none`, or a `Learner`, which the table
        calls `own`; a mapping gives names, as in {"mine": net}.
      protocols: how networks are trained: `as_distilled`, with the batches, steps and step sizes that the
        images were distilled for; `dc`, `dc_augmented`, `dsa`, `idc` or `idc_unmixed`, as in the
        matching papers; `frepo` or `rcig`, by a squared loss; `rat`, by Adam. By default `dc`,
        and `as_distilled` where the steps are known, or else `frepo` for free labels.
      num_learners: networks that are tested, per cell of the table.
      num_search_learners: networks per step size of a search.
      step_sizes: candidates of the search; by default each protocol's own, for `frepo` and `rcig` 1/3, 1,
        3 and 10 times their own.
      fresh_baselines: whether networks are trained on random real images again although the user's cache
        has their scores.
      num_epochs: of the papers' protocols; the paper's number of epochs or steps when None.
      data: the data to test on, as `jd.splits` makes them, or their path. When None, those that `dataset`
        names, or else those of the run or of the file.
      dataset, data_dir, manual_dir, data_memory: as for `jd.distill`.
      image_size, fit, channels, layout, scale, skip_broken, validation_fraction, test_fraction, preprocess:
        as for `jd.distill`; when None, as for the run that made the file.
      strategy, learner_chunk, mesh, precision: as for `jd.distill`.
      seed: of all networks and draws.
      progress: whether to show how far it is, and the table.

    Returns:
      {"rows", "config", "environment", "class_counts"}; a row per architecture: its name under `learner`, and
      scores {"mean", "std", "num_learners", "num_diverged", "every", "balanced_mean", "balanced_std",
      "per_class"} under each protocol and under `random_real`.

    Raises:
      UserError: bad input, before anything is trained.

    Example:
      >>> run = jd.distill(dataset="digits", num_outer_steps=20, progress=False)
      >>> found = jd.evaluate(run, "linear", num_learners=2, num_epochs=2, step_sizes=[0.1], progress=False)
      >>> list(found["rows"][0])
      ['learner', 'as_distilled', 'dc', 'random_real']

    References: Zhao et al. 2021, section 4.2 (cross-architecture generalisation).
    """
    chosen = EvaluateOptions(
        protocols=protocols,  # pyright: ignore[reportArgumentType]
        num_learners=num_learners,
        num_search_learners=num_search_learners,
        step_sizes=step_sizes,  # pyright: ignore[reportArgumentType]
        fresh_baselines=fresh_baselines,
        num_epochs=num_epochs,
        dataset=dataset,
        data_dir=data_dir,
        manual_dir=manual_dir,
        data_memory=data_memory,
        image_size=image_size,
        fit=fit,
        channels=channels,
        layout=layout,
        scale=scale,
        skip_broken=skip_broken,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        preprocess=preprocess,
        strategy=strategy,
        learner_chunk=learner_chunk,
        mesh=mesh,
        precision=precision,
        seed=seed,
    )
    with shown.silent(not progress), build.precision(chosen):
        job = prepared(images, learners, chosen, data=data)
        result = evaluated(job)
        show(job, result)
    return result


def prepared(
    images: Images,
    learners: Learners,
    chosen: EvaluateOptions,
    *,
    data: Splits | str | os.PathLike[str] | None = None,
) -> Prepared:
    """The checked evaluation for the arguments of `evaluate`.

    Raises:
      UserError: bad input.
    """
    if not learners:
        raise fail("evaluate", f"learners among {', '.join(sorted(LEARNERS))}", "none")
    run = images if isinstance(images, Run) else None
    file = content(images)
    resolved, tested = real_data(resolve(chosen), file, run, data)
    info = tested.info
    devices = meshes.layout(resolved.mesh, resolved.num_learners, len(tested.test.y), batch="the test images")
    batch = standardised(file, info)
    plans = protocols_for(file, resolved.protocols, resolved.num_epochs, info)
    networks = _networks(learners, info)
    per_class = max(1, len(batch.y) // info.num_classes)
    if on_host(tested.train):
        shown.say("note: random real images are left out, since data_memory keeps them off the device")
        per_class = 0
    tell_start(file)
    listed = {name: getattr(resolved, name) for name in EvaluateOptions.options() if name not in PLACES}
    listed |= {"learners": list(networks)}
    listed |= {"run": run.plan.identity} if run else {"synthetic": Path(str(images)).name}
    return Prepared(
        options=resolved,
        images=batch,
        data=tested,
        protocols=plans,
        learners=networks,
        real_per_class=per_class if per_class and enough_real(tested, per_class) else 0,
        devices=devices,
        config=json.loads(json.dumps(listed)),
    )


def evaluated(job: Prepared) -> dict[str, Any]:
    """Trains and tests the networks, and returns the result of `evaluate`."""
    meshes.say_devices(job.devices)
    with meshes.spread(job.devices):
        real = random_images(job.data, job.real_per_class) if job.real_per_class else None
        rows = [_row(job, name, real) for name in job.learners]
    result = {"rows": rows, "config": job.config, "environment": profile.environment()}
    return result | {"class_counts": class_counts(job.data)}


def show(job: Prepared, result: Mapping[str, Any]) -> None:
    """Prints the table."""

    balanced = tested_unevenly(result)

    def text(cells: Mapping[str, Any], name: str) -> str:
        if name not in cells:
            return "-"
        cell = cells[name]
        more = f" ({100 * cell['balanced_mean']:.1f})" if balanced else ""
        return f"{100 * cell['mean']:.1f} ± {100 * cell['std']:.1f}{more}"

    columns = [*job.protocols, "random_real"]
    shown.table(
        f"\nTest accuracy (%) on {job.data.info.name} after training on {len(job.images.y)} images; "
        f"mean ± std{' (balanced)' if balanced else ''}, K = {job.options.num_learners}",
        ["learner", *columns],
        [[cells["learner"], *(text(cells, name) for name in columns)] for cells in result["rows"]],
    )


def _networks(learners: Learners, info: DatasetInfo) -> dict[str, Learner]:
    """The networks by name."""
    if isinstance(learners, str | Learner):
        learners = [learners]
    if not isinstance(learners, Mapping | Sequence):
        got = type(learners).__name__
        raise fail("evaluate", "learners as a list of texts and Learners", got, HOW_TO_MAKE)
    if isinstance(learners, Mapping):
        named = list(learners.items())
    else:
        named = [(each if isinstance(each, str) else OWN_NETWORK, each) for each in learners]
        own = sum(name == OWN_NETWORK for name, _ in named)
        if own > 1:
            raise fail("evaluate", "a name for each Learner, as in {'mine': net}", f"{own} without a name")
    made = {}
    for name, each in named:
        if isinstance(each, str):
            made[name] = parse_learner(each, info)
        elif isinstance(each, Learner):
            check_fits(each, info, f"learner {name}")
            made[name] = each
        else:
            raise fail("evaluate", "learners as text or a Learner", type(each).__name__, HOW_TO_MAKE)
    return made


def _row(job: Prepared, name: str, real: tuple[Batch, Subsets] | None) -> dict[str, Any]:
    """One architecture's row: every protocol, and random real images under the best of the papers'."""
    chosen, images = job.options, job.images
    evaluation = of_new_networks(job.learners[name], job.data, chosen, chosen.num_learners)
    count, rates = len(images.y), chosen.step_sizes
    cells: dict[str, Any] = {"learner": name}
    for title, protocol in job.protocols.items():
        shown.say(f"{name}: synthetic images, {title} ...")
        tried = 0 if protocol.name == "as_distilled" else len(candidates(protocol, rates))
        searches = chosen.num_search_learners * tried
        total = (searches + chosen.num_learners) * steps_of(protocol)
        with shown.expecting(f"{name}: {title}", total, shorter(job, count, [protocol])):
            if protocol.name == "as_distilled":
                cells[title] = score(evaluation, protocol, images, everything(count)).as_row()
            else:
                best = tuned(evaluation, [protocol], images, everything(count), step_sizes=rates)
                cells[title] = best.score.as_row() | {"step_size": best.step_size}
    if real is not None:
        names = [each for each, how in job.protocols.items() if how.name != "as_distilled"] or ["dc"]
        shown.say(f"{name}: random real images, {', '.join(names)} ...")
        info = job.data.info
        size = job.real_per_class * info.num_classes
        papers = [paper_protocol(info, each, size, num_epochs=chosen.num_epochs) for each in names]
        made = reference(
            f"{name}: random real images",
            evaluation,
            papers,
            *real,
            data=job.data,
            step_sizes=rates,
            fresh=chosen.fresh_baselines,
            shorter=shorter(job, size, papers),
        )
        best = made.found
        cells["random_real"] = best.score.as_row() | {
            "protocol": best.protocol,
            "step_size": best.step_size,
            "images_per_class": job.real_per_class,
            **made.as_fields(),
        }
    return cells


def shorter(job: Prepared, count: int, protocols: Sequence[Protocol]) -> Shorter | str:
    """How to wait less for networks that are trained by these protocols on `count` images."""
    protocol, *others = protocols
    if others:
        return "a smaller num_epochs takes less"
    if protocol.name not in PUBLISHED:
        return Shorter("num_learners", job.options.num_learners)
    epoch = paper_protocol(job.data.info, protocol.name, count, num_epochs=1)
    return Shorter("num_epochs", max(1, steps_of(protocol) // steps_of(epoch)))
