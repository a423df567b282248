"""The options that say which devices and hosts a script runs on; none of them changes what is computed."""

from collections.abc import Mapping
from typing import Any

from experiments.options import Option
from jaxdistill.runtime import progress
from jaxdistill.runtime.mesh import Layout, described, layout

DEVICES = {
    "mesh": Option(
        None,
        str,
        "learner:4,data:2 splits K learners over 4 x 2 devices, and real batches over the 2 (default: "
        "learner:N, N the most devices that divide K)",
    ),
}
HOSTS = {
    "multihost": Option(False, bool, "one process of several, as SLURM, Open MPI or a TPU pod says"),
    "coordinator": Option(None, str, "by hand: HOST:PORT of process 0, a free port there"),
    "num_processes": Option(None, int, "by hand: how many processes there are", low=1),
    "process_id": Option(None, int, "by hand: which of them this is, from 0", low=0),
    "start_timeout": Option(300, int, "seconds until all processes have to have started", low=1),
}
"""Of the scripts that run on several hosts: `experiments.cli` joins them before anything else."""
OF_ONE = ("process_id", "data_dir", "manual_dir")
"""May differ between the processes of one run."""


def devices_of(
    config: Mapping[str, Any],
    num_learners: int,
    batch_size: int | None = None,
    *,
    learners: str = "num_learners",
    batch: str = "real_batch_size",
) -> Layout | None:
    """The devices that the config chooses.

    Args:
      config: of the experiment, with `mesh`.
      num_learners: K of what the script does most.
      batch_size: of its real batches; None where it draws none.
      learners, batch: the options that these are.

    Raises:
      UserError: a mesh that does not fit the devices, K or the batch.
    """
    return layout(config["mesh"], num_learners, batch_size, learners=learners, batch=batch)


def say_devices(where: Layout | None) -> None:
    """Tells which devices are used, where there are several."""
    if described(where):
        progress.say(f"devices: {described(where)}")
