"""Folders that version 0.1.0 wrote, before they named their experiment: opened, resumed, read.

`old/` has their `config.json` and a `result.json`: every option of that version, null where it had no value.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message, same_bits

import jaxdistill as jd
from jaxdistill.config.saved import experiment_of
from jaxdistill.core.checks import UserError
from jaxdistill.runs.compare import show
from jaxdistill.runs.plan import planned
from jaxdistill.runtime import loop
from jaxdistill.runtime.checkpoint import Checkpoints

OLD = Path(__file__).with_name("old")
CHOSEN = {
    "learner": "mlp",
    "width": 8,
    "depth": 1,
    "num_outer_steps": 4,
    "chunk_length": 2,
    "num_learners": 2,
    "schedule": "constant",
    "real_batch_size": 8,
    "num_eval_learners": 2,
    "num_baseline_learners": 0,
    "num_search_learners": 1,
    "step_sizes": [0.1],
    "full_data_epochs": 0,
}
"""The flags that the runs were started with, beside the method."""
METHODS = {"dd": {"method": "dd", "distill_epochs": 2}, "dc": {"method": "dc"}}


@pytest.fixture(params=METHODS)
def old(request, tmp_path, monkeypatch):
    """(folder, options, the state in it): an old config beside the checkpoint of a run that ended."""
    monkeypatch.setattr(loop, "compiled_chunk", lambda *given: None)  # nothing to call: no outer step
    options = CHOSEN | METHODS[request.param]
    method = planned(jd.Config(**options)).method
    state = jax.jit(method.init)(jax.random.key(3))._replace(step=jnp.asarray(4, jnp.int32))
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(OLD / f"{request.param}.json", folder / "config.json")
    (folder / "metrics.jsonl").write_text('{"step": 4, "loss": 2.0, "seconds": 1.5}\n')
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(4, state)
    return folder, options, state


def test_options_of_another_version_are_named(old):
    folder, options, _ = old
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["config"] |= {"number_of_spoons": 3}
    file.write_text(json.dumps(content))
    for read in (lambda: jd.distill(jd.Config(**options), run_dir=folder), lambda: jd.load_run(folder)):
        with pytest.raises(UserError, match="options that this version knows, got number_of_spoons"):
            read()
    assert json.loads(file.read_text()) == content


def test_an_old_folder_is_opened_and_resumed(old):
    folder, options, state = old
    before = json.loads((folder / "config.json").read_text())
    assert "experiment" not in before and experiment_of(before) == "distill"
    run = jd.load_run(folder)
    numbers = jax.tree.leaves(state)  # parts of an optimiser that hold none may differ
    same_bits(jax.tree.leaves(run.state), numbers)
    assert run.config.method == options["method"] and run.metrics[0]["seconds"] == 1.5
    assert json.loads((folder / "config.json").read_text()) == before  # opened, not changed
    with pytest.raises(UserError) as error:
        jd.distill(**options, seed=1, run_dir=folder, progress=False)
    assert "got seed: 0 there, 1 here." in message(error)
    again = jd.distill(**options, run_dir=folder, progress=False)
    same_bits(jax.tree.leaves(again.state), numbers)
    np.testing.assert_array_equal(again.images, run.images)
    after = json.loads((folder / "config.json").read_text())
    assert after["experiment"] == "distill" and after["config"] == again.plan.identity
    assert after["environment"] == before["environment"] and after["chosen"]["method"] == options["method"]
    same_bits(jax.tree.leaves(jd.load_run(folder).state), numbers)


def test_an_old_result_is_shown(capsys):
    result = json.loads((OLD / "dd_result.json").read_text())
    show(result)
    rows = capsys.readouterr().out.splitlines()
    assert rows[1] == "Test accuracy (%) of fresh networks: mlp on digits"
    assert rows[-2].split()[:3] == ["distilled", "images", f"{100 * result['test_accuracy_mean']:.1f}"]
