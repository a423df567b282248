"""How an outer step scales with the number of devices: time, real images per second, memory of a device.

Question: what do more devices bring, at fixed work (the same K learners over all of them) and at fixed work
per device (K grows with them), and what do devices send to each other?

    python -m experiments.scaling                                      on all devices
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m experiments.scaling     on eight of a CPU

Writes scaling.json, .csv, .md and .png. Expected on GPUs: twice the devices take half of the time, as long as
each has several learners. Eight devices of one CPU share its cores. They show the cost of splitting and that
each device holds only its share of the memory, not the gain of more devices. Takes a minute on 2 cores.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from experiments import cli
from experiments.measure import Program, Row, interleaved, outer_steps
from experiments.tables import Table, writable, write_tables
from jaxdistill.config.option import UNSET, option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.table import (
    Config,
    DataOptions,
    HostOptions,
    ImplicitOptions,
    InnerOptions,
    LearnerOptions,
    OuterOptions,
    PoolOptions,
    SeedOptions,
    TeacherOptions,
    TrajectoryOptions,
)
from jaxdistill.core.checks import fail
from jaxdistill.core.platform import present
from jaxdistill.core.sizes import format_bytes
from jaxdistill.runs.plan import Plan, planned
from jaxdistill.runtime import hosts, mesh, profile, progress
from jaxdistill.runtime.figures import (
    COLOURS,
    FAINT,
    MARKERS,
    legend_beside,
    logarithmic_y,
    row_of_panels,
    save_titled,
    style_panel,
)

FIXED, PER_DEVICE = "fixed", "fixed per device"


@options
class Options(
    DataOptions,
    TeacherOptions,
    LearnerOptions,
    InnerOptions,
    ImplicitOptions,
    OuterOptions,
    TrajectoryOptions,
    PoolOptions,
    SeedOptions,
    HostOptions,
):
    title: ClassVar[str] = "scaling"
    num_devices: tuple[int, ...] = option(
        (), "numbers of devices to compare (default: 1, 2, 4, ... up to all)", low=1
    )
    learners_per_device: int = option(1, "learners per device, at fixed work per device", low=1)
    length: int = option(20, "outer steps per compiled program", low=1)
    repeats: int = option(7, "rounds of timing, after a warm-up round", low=1)
    run_dir: str = option("runs/scaling", "folder to write the tables and the plot into")
    smoke: bool = option(False, "a short trial: two devices, one inner step, 2 rounds")


SMOKE = {
    "num_devices": (1, 2),
    "num_learners": 2,
    "distill_epochs": 1,
    "width": 8,
    "depth": 1,
    "length": 2,
    "repeats": 2,
}
SHARED = (
    "These devices share the {cores} cores of one CPU: what splitting costs, not what more devices bring."
)
COLUMNS = ("work", "devices", "K", "ms/step", "images/s", "efficiency", "memory", "sent")
PANELS = (
    ("seconds_median", "time of an outer step, ms", 1e3),
    ("images_per_second", "real images per second", 1.0),
    ("program_bytes", "memory of a device, MiB", 2.0**-20),
)
"""(column, title, factor) of each panel of the plot."""


class Point(NamedTuple):
    """A program to time."""

    work: str
    devices: int
    num_learners: int


def run(chosen: Options) -> dict[str, Any]:
    """Compiles and times every point, writes the tables and the plot.

    Returns:
      {"rows": one per point, "note", "load" of this host when timing began, "config", "environment"}.

    Raises:
      UserError: bad input, before anything is compiled.
    """
    chosen = chosen.with_smoke(SMOKE)
    options = filled(chosen)
    distilled = chosen.pick(Config, run_dir=UNSET)
    base = planned(distilled)
    points = points_of(options, base.config.num_learners)
    layouts = {point: mesh.on_learner(point.devices, point.num_learners) for point in points}
    plans = {base.config.num_learners: base}
    for count in {point.num_learners for point in points} - plans.keys():
        plans[count] = planned(distilled.replace(num_learners=count))
    folder = writable("scaling", options.run_dir)
    config = base.config
    progress.say(f"{config.method}, {config.learner}, {profile.device_description()}: compiling ...")
    programs = {}
    for point in points:
        plan = plans[point.num_learners]
        programs[point] = outer_steps(
            plan.method, plan.arguments, config.seed, options.length, layouts[point]
        )
    progress.say("timing ...")
    load = round(os.getloadavg()[0], 1)
    sides = {str(point): program.seconds for point, program in programs.items()}
    patience = float("inf") if jax.process_count() > 1 else 120.0  # clocks of hosts differ
    times = interleaved(sides, options.repeats, patience=patience)
    rows = [row_of(point, programs[point], times[str(point)], config.real_batch_size) for point in points]
    with_efficiency(rows)
    shared = present() == "cpu" and jax.device_count() > jax.process_count()
    own = {"learners_per_device": options.learners_per_device, "length": options.length}
    result = {
        "rows": rows,
        "note": SHARED.format(cores=os.cpu_count()) if shared else "",
        "load": load,
        "config": base.identity | own,
        "environment": profile.environment(),
    }
    if hosts.is_primary():
        write_tables(folder, "scaling", result, table(rows))
        draw(folder / "scaling.png", rows, title=title_of(base, shared))
    show(result)
    progress.say(f"written to {folder}")
    return result


def points_of(options: Options, num_learners: int) -> list[Point]:
    """The points to compare.

    Args:
      options: whole.
      num_learners: K at fixed work.

    Raises:
      UserError: more devices than there are, or a number that does not divide K.
    """
    there, processes = jax.device_count(), jax.process_count()
    counts = sorted(set(options.num_devices))
    if not counts:
        counts = [n for n in (processes * 2**i for i in range(there.bit_length())) if n <= there]
        counts = [n for n in counts if num_learners % n == 0]
        if not counts:
            raise fail("scaling", f"num_learners a multiple of the {processes} processes", num_learners)
    fixed = [Point(FIXED, n, num_learners) for n in counts]
    return fixed + [Point(PER_DEVICE, n, n * options.learners_per_device) for n in counts]


def row_of(point: Point, program: Program, times: list[float], real_batch_size: int) -> Row:
    """The row of a measured point."""
    seconds = statistics.median(times)
    sent = mesh.communication(program.call)
    return {
        "work": point.work,
        "devices": point.devices,
        "K": point.num_learners,
        "seconds_median": seconds,
        "seconds_min": min(times),
        "repeats": len(times),
        "images_per_second": round(point.num_learners * real_batch_size / seconds),
        "program_bytes": program.temp_bytes,
        "sent_bytes": sum(each.bytes for each in sent),
        "sent": ", ".join(sorted({each.kind for each in sent})),
        "compile_seconds": round(program.compile_seconds, 3),
    }


def with_efficiency(rows: list[Row]) -> None:
    """Adds images per second and device, relative to the fewest devices of the same kind of work."""
    for row in rows:
        first = next(other for other in rows if other["work"] == row["work"])
        rate, base = (each["images_per_second"] / each["devices"] for each in (row, first))
        row["efficiency"] = round(rate / base, 3)


def title_of(plan: Plan, shared: bool) -> str:
    """Of the plot."""
    config = plan.config
    where = f"{os.cpu_count()} cores that all devices share" if shared else profile.device_description()
    return f"an outer step of {config.method}: {config.learner} on {plan.data.info.name}, {where}"


def draw(path: Path, rows: Sequence[Row], *, title: str) -> None:
    """Draws time, rate and memory of an outer step against the number of devices, a line per kind of work.

    Dotted lines are the ideal, from the fewest devices: of fixed work half of the time on twice the devices,
    of fixed work per device the same.
    """
    figure, panels = row_of_panels(len(PANELS), 4.0 * len(PANELS) + 1.0, 3.6)
    for panel, (name, label, factor) in zip(panels, PANELS, strict=True):
        shown = []
        for i, work in enumerate(dict.fromkeys(row["work"] for row in rows)):
            line = sorted((row["devices"], factor * row[name]) for row in rows if row["work"] == work)
            devices, values = np.asarray(line, float).T
            style = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 4, "lw": 1.4}
            panel.plot(devices, values, label=f"work {work}", **style)
            ideal = values[0] * ideal_of(name, work, devices / devices[0])
            panel.plot(devices, ideal, color=FAINT, lw=0.9, ls=":")
            shown += [values, ideal]
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        logarithmic_y(panel, np.concatenate(shown))
        style_panel(panel, label, "devices")
    legend_beside(figure, panels[0])
    save_titled(path, figure, title)


def ideal_of(name: str, work: str, times: np.ndarray) -> np.ndarray:
    """What a column would be on so many times the devices, relative to its first value."""
    if name == "images_per_second":
        return times
    return np.ones_like(times) if work == PER_DEVICE else 1 / times


def table(rows: list[Row]) -> Table:
    """For a paper."""
    cells = [
        (
            row["work"],
            row["devices"],
            row["K"],
            f"{1e3 * row['seconds_median']:.3g}",
            row["images_per_second"],
            f"{row['efficiency']:.2f}",
            format_bytes(row["program_bytes"]),
            format_bytes(row["sent_bytes"]),
        )
        for row in rows
    ]
    return COLUMNS, cells


def show(result: Mapping[str, Any]) -> None:
    """Prints the table."""
    title = "\nAn outer step by number of devices; real images, memory of one device, bytes that it sends"
    progress.table(title, *table(result["rows"]))
    if result["note"]:
        progress.say(result["note"])


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
