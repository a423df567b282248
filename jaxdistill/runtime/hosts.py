"""One run in several processes, on one host or many: they start, agree, write and end together.

JAX does the work: `jax.distributed.initialize` finds SLURM, Open MPI and TPU pods by itself, every process
runs the same program, and what is sent between devices goes between hosts too. Here is the rest: all have
the same config or none starts, process 0 alone writes and shows, a signal to one stops all after the same
outer step, and every end is one line. JAX's own preemption service is left out: it takes SIGTERM over for
the life of a process (evaluation would not end by it) and does not know SIGINT; one number gathered after
every chunk does both.

A process that is killed takes the others with it: at once where they wait for it in a collective, by
heartbeat within a minute otherwise. Run the same command on all hosts again to resume from the last
checkpoint.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import jax
import numpy as np

from jaxdistill.core.checks import UserError, at_least, fail
from jaxdistill.runtime import last_words

AGAIN = "Run the same command on all hosts again to resume from the last checkpoint."
SIGNS_OF_LOSS = ("Gloo", "NCCL", "coordination", "UNAVAILABLE", "Connection", "heartbeat", "Barrier")
"""A text in the errors that JAX raises if another process is gone."""
HEARTBEAT = 60
"""Seconds without a sign of life after which a process counts as gone."""
LINGER = 3.0
"""Seconds that process 0 outlives its own last line: its end aborts the others, who have theirs to say."""
_forwarded: list[bool] = []


def start(
    *,
    multihost: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: int = 300,
) -> bool:
    """Joins the processes of a run, before any other use of JAX; does nothing unless the options ask for it.

    Standard output is process 0's alone from here on, and what native code prints there goes nowhere.

    Args:
      multihost: the cluster tells who is who.
      coordinator: HOST:PORT of process 0; with the next two, where no cluster tells.
      num_processes: of the run, >= 1.
      process_id: of this one, in [0, num_processes).
      start_timeout: seconds until all have to have started.

    Returns:
      Whether this is one process of several now.

    Raises:
      UserError: an argument missing or out of range, no known cluster, a port that is taken. Where the
        others do not answer in time, the process ends with one line (see `last_words`).
    """
    by_hand = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    given = {name for name, value in by_hand.items() if value is not None}
    if not multihost and not given:
        return False
    if given and given != set(by_hand):
        missing = ", ".join(f"--{name}" for name in by_hand if name not in given)
        raise fail("multihost", "coordinator, num_processes and process_id together", f"no {missing}")
    at_least("multihost", "start_timeout", start_timeout, 1)
    options: dict[str, Any] = {
        "initialization_timeout": start_timeout,
        "heartbeat_timeout_seconds": HEARTBEAT,
    }
    who, where = "this process", "the coordinator"
    if given:
        address = check_by_hand(cast(str, coordinator), cast(int, num_processes), cast(int, process_id))
        options |= {"coordinator_address": address, "num_processes": num_processes, "process_id": process_id}
        options |= {"cluster_detection_method": "deactivate"}
        who, where = f"process {process_id}", f"{num_processes} processes and a coordinator at {address}"
    jax.config.update("jax_enable_preemption_service", False)
    _forward_errors()
    remedy = "Start the same command in every process; check the address, the port and the firewall."
    no_answer = fail("multihost", f"{where} to answer within {start_timeout} s", "none", remedy)
    _last_words(str(no_answer), f"multihost: {who} ended without a word before the others answered.")
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:  # JAX found no cluster that says what is missing
        remedy = "By hand: --coordinator=HOST:PORT --num_processes=N --process_id=I in every process."
        raise fail("multihost", "a cluster that JAX knows (SLURM, Open MPI, TPU)", "none", remedy) from error
    except RuntimeError as error:
        raise no_answer from error
    _last_words(lost_line(), f"multihost: {who} ended without a word (killed, or out of memory). {AGAIN}")
    _one_voice()
    return True


def check_by_hand(coordinator: str, num_processes: int, process_id: int) -> str:
    """HOST:PORT, after checks of what needs no network but this host's own port.

    Raises:
      UserError: out of range, no address, or a port that process 0 cannot have.
    """
    at_least("multihost", "num_processes", num_processes, 1)
    if not 0 <= process_id < num_processes:
        raise fail("multihost", f"process_id in 0 ... {num_processes - 1}", process_id)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise fail("multihost", "coordinator=HOST:PORT", repr(coordinator))
    if process_id == 0:
        try:
            with socket.create_server(("", int(port)), reuse_port=False):
                pass
        except OSError as error:
            remedy = "Choose another one, the same in every process."
            raise fail("multihost", f"a free port {port}", error.strerror or error, remedy) from error
    return coordinator


def joined() -> bool:
    """Whether this is one process of several."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this process writes and shows."""
    return jax.process_index() == 0


def agree(what: str, facts: Mapping[str, Any]) -> None:
    """Raises in every process unless all processes have the same facts.

    Args:
      what: they are.
      facts: JSON by name.

    Raises:
      UserError: names every fact that differs, and who has which.
    """
    if jax.process_count() == 1:
        return
    every = [json.loads(text) for text in _exchanged(json.dumps(dict(facts), sort_keys=True, default=str))]
    differing = []
    for name in sorted({name for one in every for name in one}):
        values = [json.dumps(one[name], ensure_ascii=False) if name in one else "none" for one in every]
        if len(set(values)) > 1:
            other = next(i for i, value in enumerate(values) if value != values[0])
            differing.append(f"{name}: {values[0]} in process 0, {values[other]} in process {other}")
    if differing:
        raise fail("multihost", f"the same {what} in all processes", "; ".join(differing))


def from_primary(make: Callable[[], Any]) -> Any:
    """The value of process 0, as JSON, in every process; if process 0 raises, all raise the same error."""
    if jax.process_count() == 1:
        return make()
    error, told = None, {}
    if is_primary():
        try:
            told = {"made": make()}
        except UserError as refusal:
            error, told = refusal, {"refusal": str(refusal)}
    told = json.loads(_exchanged(json.dumps(told))[0])
    if error is not None:
        raise error
    if "refusal" in told:
        raise UserError(told["refusal"])
    return told["made"]


def signal_of_all(caught: Sequence[int]) -> int:
    """The number of a signal that any process caught, the same in every process; 0 if there is none.

    Args:
      caught: numbers of signals that this process caught, the first one first.
    """
    own = caught[0] if caught else 0
    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.asarray(own, np.int32))))


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    return isinstance(error, RuntimeError) and joined() and any(sign in str(error) for sign in SIGNS_OF_LOSS)


def lost_line() -> str:
    """The message about a lost process."""
    return str(fail("multihost", "all processes to go on", "one that ended", AGAIN))


def settle(line: str = "") -> None:
    """Prints this line on standard error; from here on the process prints its own last message.

    Both in one write: an abort that comes between them would leave no word, or two.
    """
    said = f"{line}\n" if line else ""
    if _forwarded:
        sys.stderr.flush()
        os.write(2, last_words.control() + said.encode())
    else:
        print(said, end="", file=sys.stderr, flush=True)


def finish() -> None:
    """Ends a successful run: waits until all processes are here. Does nothing in a run of one process."""
    if not joined():
        return
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("finish")
    settle()
    jax.distributed.shutdown()


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code, without waiting for the other processes."""
    if not joined():
        sys.exit(code)
    for file in (sys.stdout, sys.stderr):
        file.flush()
    if is_primary():
        time.sleep(LINGER)
    os._exit(code)


def _exchanged(text: str) -> list[str]:
    """The text of every process."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.asarray(own.size, np.int32)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: own.size] = own
    every = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(every, sizes, strict=True)]


def _forward_errors() -> None:
    """Puts `last_words` between this process and its standard error."""
    sys.stderr.flush()
    reading, writing = os.pipe()
    # a session of its own: the signal that ends this process is not for its last words
    subprocess.Popen(
        [sys.executable, "-S", "-E", str(Path(last_words.__file__))],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    _forwarded.append(True)


def _last_words(at_abort: str, at_end: str) -> None:
    sys.stderr.flush()
    os.write(2, last_words.control(at_abort, at_end))


def _one_voice() -> None:
    """Standard output of process 0 alone, and of Python alone: Gloo counts its connections there."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    shown = os.dup(1) if is_primary() else os.dup(nowhere)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(shown, "w", buffering=1, encoding="utf-8")  # open as long as the process lives
