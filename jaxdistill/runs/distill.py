"""Distills: runs a plan and exports the images."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config import build
from jaxdistill.config.owners import HEAD_SOLVED, OWN_NETWORK
from jaxdistill.config.saved import chosen_of
from jaxdistill.config.table import FREE, LEARNER_OPTIONS, PLACES, Config, ReadingOptions
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.core.types import Learner
from jaxdistill.data import DatasetInfo, Splits
from jaxdistill.learners import options_of
from jaxdistill.learners.spec import HOW_TO_MAKE
from jaxdistill.methods.outer import SMALLEST, parse_rates
from jaxdistill.runs.classes import say_uneven
from jaxdistill.runs.networks import only_network
from jaxdistill.runs.plan import Plan, identity_from, planned
from jaxdistill.runs.run import Run
from jaxdistill.runtime import loop, mesh, profile
from jaxdistill.runtime import progress as shown
from jaxdistill.runtime.export import Content, write_synthetic
from jaxdistill.runtime.latents import latents_arrays, write_latents
from jaxdistill.runtime.loop import Interrupted
from jaxdistill.runtime.rundir import RunDir, check_folder, open_run
from jaxdistill.runtime.stalls import Bound
from jaxdistill.teachers import CURRICULA

FAULTS = {
    "failed_solves": "A linear solve ended with NaN or a residual above 1: raise damping or weight_decay "
    "(ridge with gradient=convexified), train further (max_inner_steps), try another linear_solver, or set "
    "on_failed_solve=skip.",
    "singular_kernels": "The kernel of the images has no Cholesky factor: raise ridge (in kip "
    "kernel_lambda), or widen the network.",
    "diverged_temperatures": "The temperature of platt went beyond e^10 or below e^-10: lower "
    "hyper_learning_rate, or take cross_entropy as outer_loss and inner_loss.",
}
"""Metrics that stop a run if they are above zero, with their remedies."""


def distill(
    config: Config | None = None,
    *,
    data: Splits | str | Path | None = None,
    learner: Learner | str | None = None,
    run_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Distills a data set into synthetic images, or a generator of them.

    Args:
      config: the options; others can be given beside it by name.
      data: a data set of the user's own, as `jd.splits` makes it, or its path, instead of `dataset`. What
        `jaxdistill.data.load` returned is the set that it was asked for.
      learner: the network: a name, or a `Learner`.
      run_dir: folder to write everything into; a run that is already there is resumed. None writes nothing.
      progress: whether to show how far the run is.
      **options: those of `Config`, by name.

    Returns:
      The run. In a notebook, interrupting the kernel returns the run so far.

    Raises:
      UserError: bad input, before anything is written; a NaN on the way.
      KeyboardInterrupt: Ctrl-C in a script; with `run_dir` the state is saved.

    Example:
      >>> run = jd.distill(dataset="digits", images_per_class=1, num_outer_steps=20, progress=False)
      >>> run.labels.tolist()
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if config is not None and not isinstance(config, Config):
        raise fail("distill", "a Config, or options by name", type(config).__name__)
    chosen = config or Config()
    own = learner if isinstance(learner, Learner) else None
    if isinstance(learner, str):
        options["learner"] = learner
    elif learner is not None and own is None:
        raise fail("distill", "learner as a name or a Learner", type(learner).__name__, HOW_TO_MAKE)
    if run_dir is not None:
        options["run_dir"] = run_dir
    chosen = Config(**chosen.chosen() | options)
    if "run_dir" not in chosen.chosen() and chosen.chosen().get("tensorboard"):
        raise fail("distill", "a run_dir for the events of tensorboard", "none")
    check_place(chosen)
    with shown.silent(not progress), build.precision(chosen):
        plan = planned(chosen, data=data, learner=own)
        try:
            if plan.config.run_dir is None:
                return distilled(plan, None)
            with opened(plan, plan.config.run_dir) as directory:
                return distilled(plan, directory)
        except Interrupted as stop:
            return _stopped(plan, stop)


def _stopped(plan: Plan, stop: Interrupted) -> Run:
    """Returns the run so far at an interactive prompt; raises the interrupt in a script."""
    if not hasattr(sys, "ps1"):
        raise KeyboardInterrupt(str(stop)) from None
    shown.say(f"note: {stop}; this is the run so far")
    path = plan.config.run_dir
    return Run(plan, stop.finished, None if path is None else Path(path))


def check_place(chosen: Config) -> None:
    """Raises if the chosen folder cannot hold a run; to be called before the data are loaded."""
    if (path := chosen.chosen().get("run_dir")) is not None:
        check_folder(path)


def opened(plan: Plan, path: str | Path) -> RunDir:
    """Creates or resumes the folder of a run, and prints notes about it."""
    directory = open_run(
        path,
        plan.identity,
        experiment=plan.experiment,
        chosen=chosen_of(plan.chosen),
        free_fields=FREE,
        upgrade=lambda saved, file: identity_from(saved, file, Config, plan.data, plan.identity),
    )
    for note in directory.notes:
        shown.say(f"note: {note}")
    return directory


def distilled(plan: Plan, directory: RunDir | None) -> Run:
    """Runs a plan to its end, or resumes what is in its folder, and exports the images.

    Raises:
      Interrupted: SIGINT or SIGTERM; the state is saved where there is a folder.
      UserError: a NaN on the way.
    """
    config = plan.config
    mesh.say_devices(plan.devices)
    say_uneven(plan)
    finished = loop.distill(
        plan.methods,
        plan.arguments,
        plan.key,
        directory,
        num_steps=config.num_outer_steps,
        chunk_length=config.chunk_length,
        checkpoint_every=config.checkpoint_every,
        label=config.method,
        tensorboard=config.tensorboard,
        remedy=_remedy(config),
        faults={n: v for n, v in FAULTS.items() if n != "failed_solves" or config.on_failed_solve == "stop"},
        bounds=_bounds(config),
        devices=plan.devices,
    )
    run = Run(plan, finished, None if directory is None else directory.path)
    if directory is not None:
        export(run, directory)
    return run


def content_of(run: Run) -> Content:
    """The content of a run's file of synthetic data, without the network of a population of one."""
    from jaxdistill.runs.protocols import inner_training

    config = run.config
    images, labels, order = run.synthetic
    inner = {"inner_optimizer": config.inner_optimizer, "weight_decay": config.weight_decay}
    inner |= {"shuffle": CURRICULA[config.curriculum].shuffle, "population": config.population}
    trained = inner_training(run)
    inner |= {"loss": trained["loss"], "temperature": trained["temperature"]}
    return {
        "images": images,
        "labels": labels,
        "order": order,
        "hyperparameters": run.hyperparameters if build.has_steps(config) else {},
        "free": config.labels == "free",
        "info": run.data.info,
        "method": config.method,
        "learner": {"learner": config.learner, **{name: getattr(config, name) for name in LEARNER_OPTIONS}},
        "inner": inner,
        "reading": reading_of(config, run.data.info),
    }


def reading_of(config: ReadingOptions, info: DatasetInfo) -> dict[str, Any]:
    """The options by which a data set was read; a file of images has them for `experiments.evaluate`."""
    chosen = config.chosen()
    reading = {name: chosen.get(name) for name in ReadingOptions.options() if name not in PLACES}
    return reading | {"preprocess": info.preprocess}


def latents_of(run: Run) -> dict[str, np.ndarray]:
    """The content of a run's file of latents.

    Raises:
      UserError: a run that learned a generator.
    """
    config, info = run.config, run.data.info
    if config.teacher != "images":
        raise fail("latents", "a run with teacher=images", f"teacher={config.teacher}")
    decoder = build.decoder(config, run.data, stream(run.key, "teacher start"))
    return latents_arrays(run.stored, decoder, info, config.images_per_class, config.labels)


def export(run: Run, directory: RunDir) -> None:
    """Writes `synthetic.npz`, `images.png`, `curves.png`; `latents.npz` if images are not stored as such."""
    from jaxdistill.runtime import figures  # imports matplotlib

    config, info, plan = run.config, run.data.info, run.plan
    content = content_of(run)
    if not directory.primary:
        return
    content["start"] = only_network(config, run.state, run.bank)
    write_synthetic(directory.synthetic, **content)
    if config.teacher == "images" and (config.decoder, config.stored_as) != ("none", "float32"):
        write_latents(directory.latents, latents_of(run))
    title = f"{info.name}, {plan.made_of}, {config.method}"
    channels = info.image_shape[-1]
    if channels in (1, 3):
        figures.image_grid(
            directory.images, run.images, run.labels, info.class_names, title=title, scale=info.scale
        )
    else:
        shown.say(f"note: no {directory.images.name}, since images have {channels} channels, not 1 or 3")
    figures.curves(directory.curves, run.metrics, title=title)


def say_start(plan: Plan, path: str | Path) -> None:
    """The first line of a script's run."""
    config = plan.config
    shown.say(
        f"{config.method} on {plan.data.info.name}: {plan.made_of}, {config.learner}, "
        f"{profile.device_description()}; everything goes to {path}"
    )


def _bounds(config: Config) -> dict[str, Bound]:
    """The bounds of the learned step sizes, if any."""
    if not build.recipe(config).trains or "learning_rate" not in config.learned:
        return {}
    if config.hyper_learning_rate == 0 and "learning_rate" not in parse_rates(config.outer_learning_rates):
        return {}
    high = config.max_inner_learning_rate or math.inf
    slower = "lower hyper_learning_rate"
    if config.hyper_learning_rate is None:
        slower = "set a hyper_learning_rate below outer_learning_rate"
    at_low = f"Inner training hardly moves: raise inner_learning_rate, or {slower}."
    return {"learning_rate": Bound(SMALLEST, high, at_low, f"Raise max_inner_learning_rate, or {slower}.")}


def _remedy(config: Config) -> str:
    """The remedy for numbers that are not finite."""
    if build.has_steps(config):
        return "Lower outer_learning_rate or clip, or bound the step sizes with max_inner_learning_rate."
    rates = "outer_learning_rate"
    if config.population == "persistent":
        rates += " or match_learning_rate"
    if config.gradient in HEAD_SOLVED:
        rates += ", raise ridge"
    if config.gradient == "convexified" and config.learner != OWN_NETWORK:
        normed = (config.norm or options_of(config.learner).get("norm", "none")) != "none"
        rates += ", set norm=none" if normed else ""
    return f"Lower {rates}, or bound the outer gradient with clip."
