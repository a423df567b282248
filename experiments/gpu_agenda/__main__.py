"""Run all experiments for a GPU in pieces, on any GPU that is free for some minutes.

Question: does every method run on a GPU, how fast is it at its paper's size, and what does it reach there?

    python -m experiments.gpu_agenda --data=FOLDER          one piece; run it again for the next piece
    python -m experiments.gpu_agenda --data=FOLDER --list   the items in order, with their progress

FOLDER holds mnist.npz and, for the items of CIFAR-10, cifar10.npz: arrays x, y, x_test, y_test and a `name`,
`mnist` or `cifar10`. The name selects the normalisation, augmentation and protocol of --dataset=mnist. The
cache that `load` writes is such a file, with the images in the same order:

    python -c "from jaxdistill.data import load; load('mnist', data_dir='prepared', manual_dir='FILES')"
    mkdir FOLDER; cp prepared/mnist/*/jaxdistill-1.npz FOLDER/mnist.npz

Splits and images are then those of --dataset=mnist, bit for bit. Only the config of a run differs: it also
has `dataset_sha256`, since a file may hold anything.

Every item is a command of another script in a separate process, with a log. After `piece_seconds` the process
is asked to stop and saves its state; it is killed if that takes longer than `grace_seconds`. So a call takes
at most both together, and some seconds to write the archives. A run can stop only between its compiled chunks
of outer steps, so the grace should be longer than a chunk (on 2 cores, at these sizes, it is not). A piece
should be longer than an evaluation (some minutes), which starts again if it is stopped. The next call
continues, and tries failed items again.

RUN_DIR/results has NAME.json and NAME.png, named as in experiments/results; results.zip holds them all.
state.zip holds what another machine needs to continue with --resume_from=FILE. A generator takes some 80 MB
of it. The hundred experts of MTT are 6.5 GB and stay out of it (--archive_mib): train them and run MTT on one
machine. Expected numbers are in the presets; nothing of this has been run on a GPU.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax

from experiments import cli
from experiments.gpu_agenda.archives import archive, unpack
from experiments.gpu_agenda.items import NAMES, Item, items, smoke_items
from experiments.gpu_agenda.runner import Piece, State, of, read_state, run_items, stop_requests
from jaxdistill.config.option import Options as Base
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.core.checks import fail, one_of
from jaxdistill.data import load_npz
from jaxdistill.runtime import progress
from jaxdistill.runtime.expected_time import duration
from jaxdistill.runtime.rundir import open_run

LEAST = 0.05
"""No item is started when less than this share of a piece is left."""
PROBE = "import jax, json; d = jax.devices()[0]; print(json.dumps([d.platform, d.device_kind]))"


@options
class Options(Base):
    title: ClassVar[str] = "agenda"
    data: str | None = option(
        None, "folder of mnist.npz and cifar10.npz; items without their file are left out"
    )
    items: tuple[str, ...] = option((), f"names of the items to run (default: all): {', '.join(NAMES)}")
    list: bool = option(False, "show the items with their state and command, and run nothing")
    piece_seconds: float = option(540.0, "seconds after which the running item is asked to stop", above=0)
    grace_seconds: float = option(45.0, "seconds that the item then has to save its state", above=0)
    run_dir: str = option(
        "runs/gpu_agenda", "folder to write everything into; an agenda that is already there is resumed"
    )
    resume_from: str | None = option(None, "state.zip of another machine, unpacked into a new run_dir first")
    archive_mib: float = option(
        512.0, "largest run to keep in state.zip, in MiB; larger runs start again elsewhere", above=0
    )
    any_device: bool = option(False, "run also without a GPU")
    smoke: bool = option(False, "a trial of a minute or two: three tiny items on digits, on any device")


def run(chosen: Options) -> dict[str, Any]:
    """Runs a piece of the agenda, collects results, writes the archives, prints the table.

    Returns:
      What `state.json` holds: state, note and seconds of every item that was begun.

    Raises:
      UserError: bad input or no GPU, before anything is run; at the end, items that failed.
    """
    began = time.monotonic()
    jax.config.update("jax_platforms", "cpu")  # of this process: the memory of the GPU is for the items
    given = filled(chosen)
    folder = Path(given.run_dir).absolute()
    data = None if given.data is None else Path(given.data).absolute()
    agenda = smoke_items(folder) if given.smoke else items(data, folder)
    for name in given.items:
        one_of("gpu_agenda items", name, [item.name for item in agenda])
    there = data_there(data, agenda, given.items)
    todo = [item for item in agenda if item.name in (given.items or [i.name for i in agenda])]
    if not (given.list or given.smoke or given.any_device):
        check_gpu()
    if given.list:
        state = read_state(folder)
        show(agenda, state, there, commands=True)
        return state
    if given.resume_from is not None:
        unpack(Path(given.resume_from).expanduser(), folder)
    with open_run(folder, {"smoke": given.smoke}, experiment="gpu_agenda"):
        state = read_state(folder)
        with stop_requests() as asked:
            least, end = LEAST * given.piece_seconds, began + given.piece_seconds
            piece = Piece(folder, end, least, given.grace_seconds, asked)
            run_items([i for i in todo if i.data is None or i.data in there], agenda, state, piece)
        archive(folder, agenda, state, int(given.archive_mib * 2**20))
    show(agenda, state, there)
    tried = {*(item.name for item in todo), *(item.after for item in todo)}
    failed = [item.name for item in agenda if item.name in tried and of(state, item) == "failed"]
    wrong = [f"{name}: {state[name]['note']}" for name in failed]
    if wrong:
        remedy = f"Logs are in {folder / 'logs'}; the next call tries again."
        raise fail("gpu_agenda", "items that end well", "; ".join(wrong), remedy)
    return state


def data_there(data: Path | None, agenda: Sequence[Item], wanted: Sequence[str]) -> list[str]:
    """The named sets whose files are there, each checked.

    Raises:
      UserError: no such folder; a damaged file, or one that does not say which set it is; no file for an item
        that was asked for.
    """
    if data is not None and not data.is_dir():
        raise fail("gpu_agenda", "data, a folder", f"{data}, where there is none")
    needed = dict.fromkeys(item.data for item in agenda if item.data is not None)
    there = [name for name in needed if data is not None and (data / f"{name}.npz").is_file()]
    for name in there:
        raw = load_npz(f"{data}/{name}.npz")
        if raw.name != name:
            remedy = f"Write it with numpy.savez(..., name={name!r}), if its images are that set."
            raise fail("gpu_agenda", f"name {name!r} in {data}/{name}.npz", repr(raw.name), remedy)
    for item in agenda:
        if item.name in wanted and item.data is not None and item.data not in there:
            raise fail("gpu_agenda", f"{item.data}.npz for {item.name}", f"none in data={data}")
    return there


def check_gpu() -> None:
    """Raises unless JAX sees a GPU, which a process of its own finds out."""
    found = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    lines = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines() or ["nothing"]
    platform, kind = json.loads(lines[-1]) if found.returncode == 0 else ("none", lines[-1])
    if platform != "gpu":
        remedy = 'Install "jax[cuda12]", or add --any_device.'
        raise fail("gpu_agenda", "a GPU that JAX sees", f"{platform} ({kind})", remedy)
    progress.say(f"gpu_agenda: {kind}")


def show(agenda: Sequence[Item], state: State, there: Sequence[str], *, commands: bool = False) -> None:
    """Prints the items in order; with their commands, if asked for."""
    cells = []
    for item in agenda:
        found, about = of(state, item), state.get(item.name, {})
        if found == "not yet" and item.data is not None and item.data not in there:
            found = f"no {item.data}.npz"
        cells.append([item.name, found, duration(about.get("seconds", 0.0)), item.measures])
    progress.table("\nThe agenda", ["item", "state", "time", "measures"], cells)
    for item in agenda if commands else ():
        progress.say(f"{item.name}: python {' '.join(item.command)}")


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
