"""Methods on a mesh of fake devices: a program of its own, since devices are counted when JAX starts.

    python tests/on_devices.py '{"meshes": ["learner:8"], "methods": ["dd"]}' [COORDINATOR COUNT ID]

Prints JSON, in process 0: what each method learned in 20 outer steps, on every mesh and (in a process alone)
on one device; what its program sends, and what it keeps. With `"streamed": ["dd"]` also runs of
these methods whose images stay on the host, beside runs whose images are on the devices.
"""

import json
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import CLASSES, SHAPE, fixed_sgd, images_teacher, tiny_data, tiny_net

from jaxdistill.core.types import Data, Dataset, DistillState, Method
from jaxdistill.data.dataset import from_arrays
from jaxdistill.data.streaming import HostImages
from jaxdistill.inner.implicit import implicit
from jaxdistill.inner.over_learners import gathered, over_learners
from jaxdistill.inner.solvers import cg
from jaxdistill.methods.dc import dc
from jaxdistill.methods.dd import dd
from jaxdistill.methods.dm import dm
from jaxdistill.methods.gtn import gtn
from jaxdistill.methods.mtt import mtt
from jaxdistill.populations.pretrained import pretrained
from jaxdistill.runtime import hosts, mesh, progress
from jaxdistill.runtime.loop import compiled_chunk, distill
from jaxdistill.teachers.generator import generator

K, STEPS, BATCH = 8, 20, 16
NET = tiny_net()
COMMON: dict[str, Any] = {"num_learners": K, "real_batch_size": BATCH}


def bank_of(*axes: int) -> Any:
    """Networks, or trajectories of them, that nobody trained."""
    keys = jax.random.split(jax.random.key(7), axes)
    return jax.vmap(NET.init)(keys) if len(axes) == 1 else jax.vmap(jax.vmap(NET.init))(keys)


def dd_implicit() -> Method:
    """To tolerances that rounding does not move."""
    solve = partial(implicit, damping=0.5, max_steps=10, tolerance=0.0, linear_solver=cg(max_steps=8))
    inner = fixed_sgd(0.5)
    return dd(
        NET, images_teacher(), inner_optimizer=inner, weight_decay=0.1, solve=solve, warm_start=True, **COMMON
    )


def gtn_small() -> Method:
    teacher = generator(
        image_shape=SHAPE,
        num_classes=CLASSES,
        batch_size=6,
        distill_steps=3,
        generator_width=4,
        generator_hidden=8,
        upsamplings=1,
        noise_size=4,
    )
    return gtn(NET, teacher, **COMMON)


METHODS = {
    "dd": lambda: dd(NET, images_teacher(distill_epochs=3), microbatch=4, **COMMON),
    "dd_vmap": lambda: dd(NET, images_teacher(distill_epochs=3), strategy="vmap", **COMMON),
    "implicit": dd_implicit,
    "dc": lambda: dc(NET, images_teacher(soft_labels=False), microbatch=2, **COMMON),
    "dm": lambda: dm(NET, images_teacher(soft_labels=False), microbatch=2, **COMMON),
    "gtn": gtn_small,
    "pretrained": lambda: dd(NET, images_teacher(), population=pretrained(), **COMMON),
    "mtt": lambda: mtt(NET, images_teacher(distill_epochs=3), num_learners=K),
}
BANKS = {"pretrained": lambda: bank_of(3), "mtt": lambda: bank_of(2, 30)}


def learned(method: Method, state: DistillState, data: Data, where: mesh.Layout | None) -> dict[str, Any]:
    """Losses and images after 20 outer steps from a state, and the program that made them."""
    key = jax.random.key(0)
    given = (data, key)
    if where is not None:
        state = mesh.placed(state, mesh.state_shardings(where, state))
        given = mesh.placed(given, mesh.whole_everywhere(where))
    with mesh.spread(where):
        program = compiled_chunk(method, where).lower(state, *given, STEPS).compile()
    state, metrics, _ = program(state, *given)
    state, metrics = mesh.local((state, metrics))
    synthetic = method.synthesize(state, jax.random.key(1))
    return {
        "losses": np.asarray(metrics["loss"]).tolist(),
        "images": np.ravel(synthetic.x).tolist(),
        "sent": [list(each) for each in mesh.communication(program)],
        "learned_bytes": 4 * sum(leaf.size for leaf in jax.tree.leaves(state.meta)),
        "metrics": len(metrics),
    }


def memory(where: mesh.Layout | None, num_learners: int) -> int:
    """Temporary bytes of a device, all of its learners at once, of a network that weighs something."""
    net = tiny_net(width=64, depth=2)
    method = dd(
        net, images_teacher(distill_epochs=10), num_learners=num_learners, real_batch_size=64, strategy="vmap"
    )
    data, key = Data(tiny_data(), None), jax.random.key(0)
    with mesh.spread(where):
        shapes = jax.eval_shape(method.init, key)
        program = compiled_chunk(method, where).lower(shapes, data, key, STEPS).compile()
    return program.memory_analysis().temp_size_in_bytes


def padded(where: mesh.Layout | None) -> list[float]:
    """A sum over six learners, which eight devices do not divide, by each of them."""
    with mesh.spread(where):
        mapped = over_learners(lambda one, shared: jnp.sum(one * shared))
        call = jax.jit(lambda a, b: gathered(mapped(a, shared=(b,))))
        return np.asarray(call(jnp.arange(12.0).reshape(6, 2), jnp.array([1.0, 10.0]))).tolist()


class Counted(HostImages):
    """Images on the host, and how many of them were read."""

    read = 0

    def __getitem__(self, index: Any) -> np.ndarray:
        self.read += np.size(index)
        return super().__getitem__(index)


def eight_bits() -> Dataset:
    """`tiny_data` as pixels of 8 bits."""
    floats, table = tiny_data(), np.linspace(-2, 2, 256, dtype=np.float32)[:, None]
    pixels = np.clip(np.rint((np.asarray(floats.x) + 2) * 63), 0, 255).astype(np.uint8)
    return from_arrays(pixels, np.asarray(floats.y).argmax(-1), CLASSES, table)


def streamed(method: Method, where: mesh.Layout | None) -> dict[str, Any]:
    """Images after 7 outer steps in chunks of 3, and how many real images this process read for them."""
    resident, found = eight_bits(), {}
    host = Counted(np.asarray(resident.pixels), np.arange(len(resident.y)))
    both = {"resident": resident, "streamed": resident._replace(pixels=host)}  # pyright: ignore
    for name, real in both.items():
        given = Data(real, None), jax.random.key(0)
        with progress.silent():
            state = distill(method, *given, num_steps=7, chunk_length=3, devices=where).state
        found[name] = np.ravel(method.synthesize(state, jax.random.key(1)).x).tolist()
    return found | {"read": host.read}


def main(task: dict[str, Any], several: bool) -> dict[str, Any]:
    layouts = {text: mesh.layout(text, K, BATCH) for text in task["meshes"]}
    found: dict[str, Any] = {}
    for name in task["methods"]:
        bank = BANKS[name]() if name in BANKS else None
        method, data = METHODS[name](), Data(tiny_data(), bank)
        start = jax.jit(method.init)(jax.random.key(0))
        found[name] = {text: learned(method, start, data, where) for text, where in layouts.items()}
        if not several:
            found[name]["one"] = learned(method, start, data, None)
    if task.get("memory"):
        eight = mesh.layout("learner:8", 16)
        found["memory"] = {"mesh": memory(eight, 16), "one": memory(None, 2)}
    if task.get("streamed"):
        runs = layouts if several else layouts | {"one": None}
        found["streamed"] = {
            name: {text: streamed(METHODS[name](), where) for text, where in runs.items()}
            for name in task["streamed"]
        }
    found["padded"] = padded(next(iter(layouts.values())))
    return found


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    arguments = dict(zip(("coordinator", "num_processes", "process_id"), sys.argv[2:], strict=False))
    several = hosts.start(**{n: v if n == "coordinator" else int(v) for n, v in arguments.items()})
    print(json.dumps(main(json.loads(sys.argv[1]), several)))
    hosts.finish()
