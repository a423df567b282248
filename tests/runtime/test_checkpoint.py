"""Checkpoints: the same bits back, and every damage said or mended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import damage, message

from jaxdistill.core.checks import UserError
from jaxdistill.core.types import DistillState, Meta
from jaxdistill.runtime.checkpoint import Checkpoints


def make_state(seed=0, step=0) -> DistillState:
    generator = np.random.default_rng(seed)
    meta = Meta({"pixels": jnp.asarray(generator.normal(size=(4, 8, 8, 1)), jnp.float32)}, {})
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1), optax.identity())
    population = {
        "half": jnp.asarray(generator.normal(size=3), jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "none": jnp.zeros((0, 3)),
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }
    solver = (jax.random.split(jax.random.key(seed, impl="rbg"), 2), jax.random.PRNGKey(seed), ())
    return DistillState(meta, optimizer.init(meta), population, solver, jnp.asarray(step, jnp.int32))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array) and x.dtype == y.dtype and x.shape == y.shape
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_checkpoint_restores_the_same_bits(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make_state(step=7)
    template = jax.eval_shape(lambda: make_state())
    with Checkpoints("relative/checkpoints") as checkpoints:
        assert checkpoints.restore(template) is None
        assert checkpoints.latest_step() is None
        checkpoints.save(7, state)
        checkpoints.save(7, make_state(1))  # there already: left alone
        with pytest.raises(UserError, match="a step after 7"):
            checkpoints.save(3, state)
    with Checkpoints("relative/checkpoints") as checkpoints:
        restored, step, notes = checkpoints.restore(template)
        assert (step, notes, checkpoints.latest_step()) == (7, [], 7)
        assert_same(restored, state)
        with pytest.raises(UserError) as error:
            checkpoints.restore(template._replace(step=jax.ShapeDtypeStruct((), jnp.float32)))
        assert ".step is int32[] there, this run has float32[]" in message(error)
        assert checkpoints.latest_step() == 7  # what does not fit is not thrown away
    out, err = capfd.readouterr()
    assert out + err == ""


def test_restored_buffers_can_be_donated(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(64.0)})
        state, _, _ = checkpoints.restore({"x": jax.ShapeDtypeStruct((64,), jnp.float32)})
    moved = jax.jit(lambda x: x + 1, donate_argnums=0)(state["x"])
    np.testing.assert_array_equal(moved, np.arange(1, 65, dtype=np.float32))


@pytest.mark.parametrize("how", ["bytes", "missing data", "missing info", "empty"])
def test_damaged_checkpoint_falls_back_and_goes_on(tmp_path, how):
    template = jax.eval_shape(lambda: make_state())
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step, step))
    assert not (tmp_path / "1").exists()
    if how == "bytes":
        damage(tmp_path / "3")
    elif how == "missing data":
        for file in (tmp_path / "3" / "state").rglob("*"):
            if file.is_file():
                file.unlink()
    elif how == "missing info":
        (tmp_path / "3" / "info" / "metadata").write_text("{")
    else:
        (tmp_path / "4").mkdir()
        damage(tmp_path / "3")
    unfinished = tmp_path / "9.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        state, step, notes = checkpoints.restore(template)
        assert step == 2
        assert [note.split(" (")[0] for note in notes] == [
            f"checkpoint of step {bad} does not restore" for bad in ((4, 3) if how == "empty" else (3,))
        ]
        assert all(note.endswith("; went back to step 2") for note in notes)
        assert_same(state, make_state(2, 2))
        assert checkpoints.latest_step() == 2
        checkpoints.save(3, make_state(3, 3))
        assert checkpoints.restore(template)[1:] == (3, [])


def test_flipped_bytes_are_found_by_their_digest(tmp_path, monkeypatch):
    """Storage that returns other bytes without an error of its own."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(8)})
        restore = checkpoints._manager.restore

        def other(step, args):
            found = restore(step, args=args)
            return {"state": {"leaf00000": np.zeros(8, np.float32)}} if "state" in args else found

        monkeypatch.setattr(checkpoints._manager, "restore", other)
        with pytest.raises(UserError, match=r"the bytes of .* differ from what was saved"):
            checkpoints.restore({"x": jax.ShapeDtypeStruct((8,), jnp.float32)})
        assert checkpoints.latest_step() == 1


def test_checkpoints_need_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"expected to write .*file/checkpoints, got Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(UserError, match="keep >= 1"):
        Checkpoints(tmp_path, keep=0)
