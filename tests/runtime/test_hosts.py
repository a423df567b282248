"""Several processes on this host: they start, agree, stop, are killed and resumed together."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_devices import CLOSE, FAKE, check_same, on_devices
from helpers import message
from tiny_runs import TINY, command, flags, tiny_run, wait_until

from jaxdistill.config.option import UNSET
from jaxdistill.core.checks import UserError
from jaxdistill.runtime import hosts
from jaxdistill.runtime.last_words import ABORT, control, forward
from jaxdistill.runtime.metrics import read_metrics

TWO = {"num_processes": 2}
RUN = TINY | {"num_learners": 8, "num_outer_steps": 400}
"""Eighty checkpoints, in which a signal finds its moment."""
LOST = "multihost: expected all processes to go on, got one that ended. " + hosts.AGAIN


def free_port() -> int:
    with socket.socket() as any_of_them:
        any_of_them.bind(("localhost", 0))
        return any_of_them.getsockname()[1]


@pytest.fixture
def start():
    """Starts `python ARGUMENTS` twice, with four devices each; ends them with the test, however it ends."""
    started: list[subprocess.Popen] = []

    def both(*of_each: list[str]) -> list[subprocess.Popen]:
        pair = [command(*arguments, wait=False, XLA_FLAGS=f"{FAKE}4") for arguments in of_each]
        started.extend(pair)
        return pair

    yield both
    for process in started:
        process.kill()
        process.communicate()


def distills(path: Path, own=({}, {}), **options) -> tuple[list[str], list[str]]:
    """The command of each of two processes."""
    shared = RUN | {"run_dir": str(path), "coordinator": f"localhost:{free_port()}"} | TWO | options
    first, second = (
        ["-m", "experiments.distill", *flags(**shared | mine, process_id=i)] for i, mine in enumerate(own)
    )
    return first, second


def ends(processes: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str, list[str]]]:
    """(exit code, standard output, lines of standard error) of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=seconds)
        found.append((process.returncode, out, err.splitlines()))
    return found


def steps(path: Path) -> list[int]:
    return sorted(int(item.name) for item in (path / "checkpoints").glob("*") if item.name.isdigit())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"process_id": 2}, "multihost: expected process_id in 0 ... 1, got 2."),
        ({"process_id": -1}, "process_id in 0 ... 1, got -1"),
        ({"num_processes": 0}, "num_processes >= 1, got 0"),
        ({"coordinator": "host"}, "coordinator=HOST:PORT, got 'host'"),
        ({"coordinator": "host:http"}, "coordinator=HOST:PORT, got 'host:http'"),
        ({"coordinator": ":80"}, "coordinator=HOST:PORT, got ':80'"),
        ({"coordinator": "host:70000"}, "coordinator=HOST:PORT, got 'host:70000'"),
        ({"process_id": None}, "together, got no --process_id"),
        ({"coordinator": None, "num_processes": None}, "together, got no --coordinator, --num_processes"),
        ({"start_timeout": 0}, "start_timeout >= 1, got 0"),
    ],
)
def test_arguments_are_checked_before_anything_starts(options, says, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    with pytest.raises(UserError) as error:
        hosts.start(**{"coordinator": "localhost:1234", "num_processes": 2, "process_id": 1} | options)
    assert says in message(error)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            hosts.check_by_hand(f"localhost:{port}", 2, 0)
    assert f"a free port {port}, got Address already in use" in message(error)


def test_without_the_flags_there_is_one_process():
    assert hosts.start() is False and not hosts.joined() and hosts.is_primary()
    hosts.agree("flags", {"a": 1})
    assert hosts.from_primary(lambda: [1]) == [1]
    assert hosts.signal_of_all([]) == 0 and hosts.signal_of_all([15, 2]) == 15
    hosts.finish()


def test_what_differs_is_named(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    other = {"clip": 2.0, "seed": 0, "learner": "mlp"}
    monkeypatch.setattr(hosts, "_exchanged", lambda text: [text, text, json.dumps(other)])
    with pytest.raises(UserError) as error:
        hosts.agree("flags", {"clip": 1.0, "seed": 0})
    assert message(error) == (
        "multihost: expected the same flags in all processes, got clip: 1.0 in process 0, 2.0 in process 2; "
        'learner: none in process 0, "mlp" in process 2.'
    )
    monkeypatch.setattr(hosts, "_exchanged", lambda text: [text] * 3)
    hosts.agree("flags", {"clip": 1.0})


def test_process_0_refuses_for_all(monkeypatch):
    def refuse():
        raise UserError("open_run: expected a, got b.")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_exchanged", lambda text: [text, "null"])
    with pytest.raises(UserError, match="expected a, got b"):
        hosts.from_primary(refuse)
    monkeypatch.setattr(hosts, "is_primary", lambda: False)
    monkeypatch.setattr(
        hosts, "_exchanged", lambda text: ['{"refusal": "open_run: expected a, got b."}', text]
    )
    with pytest.raises(UserError, match="expected a, got b"):
        hosts.from_primary(refuse)


def spoken(*lines: bytes) -> list[str]:
    out: list[bytes] = []
    forward(lines, out.append)
    return b"".join(out).decode().splitlines()


def test_last_words():
    """One line in the place of an abort's page, once; none where the process spoke for itself."""
    words, page = control("another one ended", "killed"), b"F1126 client.h:80] " + ABORT + b".\n"
    before = b"E1126 coordination_service_agent.cc:289] Polled an error\n"
    assert spoken(words, b"note: a\n", control()) == ["note: a"]
    assert spoken(words, b"note: a\n") == ["note: a", "killed"]
    assert spoken(words, before, b"more of it\n", page, b"    @ 0x7f3637c40634\n") == ["another one ended"]
    assert spoken(words, before, control(), b"its own line\n", page) == ["its own line"]
    assert spoken(words, page, control(), b"its own line\n") == ["another one ended"]
    assert spoken(words, b"unfinished" + control("b", "c"), page) == ["unfinishedb"]


def test_no_cluster_is_one_line(tmp_path):
    environment = {
        name: "" for name in os.environ if name.startswith(("SLURM", "OMPI", "TPU", "K8S", "KUBERNETES"))
    }
    ended = command(
        "-m", "experiments.distill", "--multihost", f"--run_dir={tmp_path / 'run'}", **environment
    )
    assert ended.returncode == 1 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(
        "multihost: expected a cluster that JAX knows (SLURM, Open MPI, TPU), got none. By hand"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_answer_from_the_coordinator_is_one_line(tmp_path):
    began = time.monotonic()
    _, second = distills(tmp_path / "run", start_timeout=3)
    ended = command(*second)
    assert ended.returncode != 0 and time.monotonic() - began < 60
    (line,) = ended.stderr.splitlines()
    assert "multihost: expected 2 processes and a coordinator at localhost:" in line
    assert "to answer within 3 s, got none. Start the same command" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_one(start):
    names = ["dd", "implicit", "dc", "gtn"]
    task = {"meshes": ["learner:8"], "methods": names}
    alone = on_devices(**task)
    given = [f"localhost:{free_port()}", "2"]
    pair = start(*(["tests/on_devices.py", json.dumps(task), *given, str(i)] for i in range(2)))
    (code, out, err), (code_1, out_1, err_1) = ends(pair)
    assert (code, err, code_1, err_1, out_1) == (0, [], 0, [], "")
    found = json.loads(out)
    for name in names:
        ours, theirs, one = found[name]["learner:8"], alone[name]["learner:8"], alone[name]["one"]
        check_same(ours, one)
        for part in ("losses", "images"):
            np.testing.assert_allclose(ours[part], theirs[part], rtol=0, atol=CLOSE)
        worst = np.abs(np.subtract(ours["images"], one["images"])).max()
        print(f"{name}: images of 2 x 4 devices and of one differ by {worst:.1e} at most")
        assert ours["sent"] == theirs["sent"]
    assert found["padded"] == alone["padded"]


@pytest.mark.slow
def test_each_process_reads_its_share_of_real_images_on_the_host(start):
    """Half of every batch, and the bits of a run whose images are on the devices of both."""
    task = {"meshes": ["learner:1,data:8"], "methods": [], "streamed": ["dd"]}
    alone = on_devices(**task)["streamed"]["dd"]
    given = [f"localhost:{free_port()}", "2"]
    pair = start(*(["tests/on_devices.py", json.dumps(task), *given, str(i)] for i in range(2)))
    (code, out, err), (code_1, _, err_1) = ends(pair)
    assert (code, err, code_1, err_1) == (0, [], 0, [])
    (found,) = json.loads(out)["streamed"]["dd"].values()
    for each in (found, *alone.values()):
        assert each["streamed"] == each["resident"]
        np.testing.assert_allclose(each["streamed"], alone["one"]["streamed"], rtol=0, atol=CLOSE)
    assert found["read"] == 7 * 16 // 2 and alone["one"]["read"] == 7 * 16


@pytest.mark.slow
def test_flags_that_differ_end_both(tmp_path, start):
    for code, out, err in ends(
        start(*distills(tmp_path / "run", own=({}, {"clip": 2.0, "weight_decay": 0.1})))
    ):
        assert code == 1 and out == ""
        (line,) = err
        assert line == (
            "multihost: expected the same flags in all processes, got clip: none in process 0, 2.0 in "
            "process 1; weight_decay: none in process 0, 0.1 in process 1."
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cluster_tells_who_is_who(tmp_path):
    """What SLURM sets for two tasks of a node is all that --multihost takes."""
    for port in range(61440, 65536):  # JAX makes one of them of the job's number
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            break
    shared = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    pair = [
        command(
            *("-m", "experiments.distill", "--multihost", f"--seed={i}", f"--run_dir={tmp_path / 'run'}"),
            wait=False,
            **shared,
            SLURM_PROCID=str(i),
            SLURM_LOCALID=str(i),
        )
        for i in range(2)
    ]
    line = "multihost: expected the same flags in all processes, got seed: 0 in process 0, 1 in process 1."
    assert ends(pair) == [(1, "", [line])] * 2


@pytest.mark.slow
def test_what_process_0_cannot_write_ends_both(tmp_path, start):
    (tmp_path / "thesis.tex").write_text("x")
    for code, out, err in ends(start(*distills(tmp_path))):
        assert code == 1 and "Traceback" not in out
        (line,) = err
        assert line.startswith("open_run: expected a new or empty directory") and "thesis.tex" in line
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_stopped_then_killed_then_resumed_with_the_same_bits(tmp_path, start):
    whole = start(*distills(tmp_path / "whole"))
    (code, out, err), other = ends(whole)
    assert (code, err) == (0, []) and other == (0, "", [])
    assert "devices: 8 devices in 2 processes, 1 of 8 learners on each" in out and "distilled images" in out
    path = tmp_path / "run"

    pair = start(*distills(path))
    wait_until(lambda: bool(steps(path)), pair[0])
    pair[1].send_signal(signal.SIGTERM)
    stopped = ends(pair)
    saved = steps(path)[-1]
    line = f"stopped after outer step {saved}, saved; run the same command again to resume"
    assert [(code, err) for code, _, err in stopped] == [(143, [line])] * 2 and 0 < saved < 400

    generator = np.random.default_rng()
    for victim in (1, 0):
        pair = start(*distills(path))
        wait_until(lambda before=saved: steps(path)[-1] > before, pair[0])
        time.sleep(generator.uniform(0, 0.5))
        pair[victim].kill()
        survivor = 1 - victim
        (code, _, err), killed = ends([pair[survivor], pair[victim]], seconds=120)
        assert code != 0 and err == [LOST]
        assert killed[0] == -signal.SIGKILL and len(killed[2]) == 1 and "ended without a word" in killed[2][0]
        assert not (path / "result.json").exists()
        saved = steps(path)[-1]

    (code, out, err), other = ends(start(*distills(path)))
    assert (code, err) == (0, []) and other == (0, "", [])
    assert "resumes from outer step" in out
    assert (path / "synthetic.npz").read_bytes() == (tmp_path / "whole/synthetic.npz").read_bytes()
    rows, expected = (read_metrics(p / "metrics.jsonl") for p in (path, tmp_path / "whole"))
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in expected]
    results = [json.loads((p / "result.json").read_text()) for p in (path, tmp_path / "whole")]
    assert results[0]["test_accuracies"] == results[1]["test_accuracies"]
    assert results[0]["environment"]["process_count"] == 2


@pytest.mark.slow
def test_two_processes_are_resumed_as_one(tmp_path, start):
    """On one device and no other process, from the checkpoint that two wrote; with state by learner too."""
    own = {"method": "dc", "matches": 10, "match_epochs": 1, "real_batch_size": 8, "num_outer_steps": 40}
    own |= {"distill_epochs": UNSET, "num_eval_learners": 2, "num_baseline_learners": 0, "protocol": "dc"}
    path = tmp_path / "run"
    pair = start(*distills(path, **own))
    wait_until(lambda: bool(steps(path)), pair[0])
    pair[0].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in ends(pair)] == [143, 143] and steps(path)[-1] < 40
    _, printed = tiny_run(path, **RUN | own)
    assert "resumes from outer step" in printed
    assert "process_count: started with 2, resumes with 1" in printed
    tiny_run(tmp_path / "one", **RUN | own)
    images = [np.load(p / "synthetic.npz")["x_standardised"] for p in (path, tmp_path / "one")]
    worst = np.abs(np.subtract(*images)).max()
    print(f"images of a run that was resumed from 2 x 4 devices on one differ by {worst:.1e} at most")
    assert worst < CLOSE


@pytest.mark.slow
def test_pools_and_evaluation_in_two_processes(tmp_path, start):
    pool = {
        "width": 8,
        "depth": 1,
        "num_epochs": 2,
        "group_size": 8,
        "num_networks": 12,
        "num_test_networks": 2,
    }

    def both(script: str, **options) -> None:
        shared = flags(**options, **TWO, coordinator=f"localhost:{free_port()}")
        pair = start(*(["-m", script, *shared, f"--process_id={i}"] for i in range(2)))
        (code, out, err), other = ends(pair)
        assert (code, err) == (0, []) and other == (0, "", []) and out

    both("experiments.pretrain", **pool, run_dir=str(tmp_path / "two"))
    command("-m", "experiments.pretrain", *flags(**pool, run_dir=str(tmp_path / "one")))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("two", "one")]
    np.testing.assert_allclose(results[0]["test_accuracies"], results[1]["test_accuracies"], atol=0.01)
    run = tmp_path / "run"
    tiny_run(
        run, population="pretrained", pool=str(tmp_path / "two"), num_eval_learners=2, num_baseline_learners=0
    )
    options = {"synthetic": str(run / "synthetic.npz"), "learners": ["linear"], "num_learners": 8}
    options |= {"num_search_learners": 1, "step_sizes": [0.1], "num_epochs": 3, "protocols": ["dc"]}
    both("experiments.evaluate", **options, run_dir=str(tmp_path / "evaluated"))
    assert json.loads((tmp_path / "evaluated/evaluation.json").read_text())["rows"][0]["learner"] == "linear"
