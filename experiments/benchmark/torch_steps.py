"""Outer steps against the same steps in plain PyTorch: a part of `experiments.benchmark`.

DSA and DM augment by one operation, `scale`, at parameters that both sides are given; their papers draw one
of several operations for every class.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.matching_steps import STEPS, epochs_between
from experiments.benchmark.options import Options
from experiments.benchmark.problems import CLASSES, SHAPES, problem, random_images
from experiments.benchmark.torch_reference import TorchReference, torch_weights
from experiments.measure import Row, interleaved, outer_steps, ratio_of_medians, row
from jaxdistill.augment import Augmentation, operation, with_parameters
from jaxdistill.core.keys import at_step, stream
from jaxdistill.core.types import Array, Data, DistillState, Learner, Meta, Method, Params
from jaxdistill.learners import learner
from jaxdistill.methods import METHODS
from jaxdistill.populations import fresh
from jaxdistill.runtime import progress
from jaxdistill.runtime.expected_time import Shorter, expected
from jaxdistill.teachers import images

RATES = {"learning_rate": 0.01, "b1": 0.5, "b2": 0.999}
"""Of the outer Adam of LeNet's problems, on both sides."""
SCALE = (1.1, 0.95)
"""The steps, of (row, column), at which DSA and DM sample all images."""


class Compared(NamedTuple):
    """An outer step that both sides have."""

    method: Method
    data: Data
    network: Learner
    weights: Callable[[DistillState, Array], Params]
    """(state, root key) -> the network of the outer step that comes next."""
    length: int
    """Outer steps of a compiled program that is timed."""
    told: dict[str, Any]
    """What its rows say of it."""
    settings: dict[str, Any]
    """What PyTorch needs to know besides."""


def torch(options: Options) -> Iterator[Row]:
    """Time of outer steps, by turns with plain PyTorch, after a check that both compute the same."""
    names = options.torch_steps or tuple(COMPARED)
    if not options.smoke:
        seconds = sum(SECONDS[name] for name in names) * (options.repeats + 1)
        shorter = Shorter("repeats", options.repeats)
        progress.say(expected("torch on two cores", seconds, shorter))
    for name in names:
        yield from _rows(name, COMPARED[name](options.seed, options.smoke), options)


def _rows(name: str, step: Compared, options: Options) -> Iterator[Row]:
    """The rows of both sides."""
    programs = {n: outer_steps(step.method, step.data, options.seed, n) for n in {1, step.length}}
    state, data, key = programs[1].arguments
    after, metrics, _ = programs[1].call(state, data, key)
    before, trained = (
        torch_weights(step.network, step.weights(each, key), SHAPES[step.told["learner"]])
        for each in (state, after)
    )
    assert step.method.draw is not None
    real = step.method.draw(data.real, key, state.step)
    more = {"batch_size": step.told["real_batch_size"], "seed": options.seed, **step.settings}
    with TorchReference(before, state.meta, data.real, **more) as reference:
        compared = trained if step.settings.get("epochs") else []
        errors = reference.check(real, metrics["loss"][0], _hypergradient(after), compared)
        by_training = {n: errors.pop(n) for n in ("trained_error",) if n in errors}
        told = "".join(f", {error:.1e} of training" for error in by_training.values())
        error = max(errors.values())
        progress.say(f"torch, {name}: both compute the same; relative error {error:.1e}{told}")
        ours = programs[step.length]
        sides = {"pytorch": partial(reference.seconds, step.length), "jaxdistill": ours.seconds}
        times = interleaved(sides, options.repeats, patience=float("inf"))
    theirs, mine = f"{name}: pytorch", f"{name}: jaxdistill"
    yield row("torch", theirs, times["pytorch"], **step.told, ratio=1.0, torch=reference.version)
    about = {"ratio": ratio_of_medians(times, "jaxdistill", "pytorch"), "error": error, **by_training}
    yield row("torch", mine, times["jaxdistill"], ours, **step.told, **about)


def _hypergradient(after: DistillState) -> Meta:
    """That of the first outer step, from what the outer optimiser keeps of it."""
    moment = optax.tree_utils.tree_get(after.opt_state, "mu")
    if moment is None:  # SGD's sum of gradients, of which there is one so far
        return optax.tree_utils.tree_get(after.opt_state, "trace")
    return jax.tree.map(lambda m: m / (1 - RATES["b1"]), moment)


def _lenet(seed: int, smoke: bool, *, T: int, settings: dict[str, Any], **options: Any) -> Compared:
    """Inner steps of a LeNet, one fixed initialisation."""
    plan = problem(
        "lenet",
        seed,
        real_batch_size=16 if smoke else 1024,
        outer_learning_rate=RATES["learning_rate"],
        outer_b1=RATES["b1"],
        **options,
    )
    adam = {"lr": RATES["learning_rate"], "betas": (RATES["b1"], RATES["b2"])}
    return Compared(
        plan.method,
        plan.arguments,
        plan.learner,
        weights=lambda state, key: state.population,
        length=1 if smoke else 10,
        told={"learner": "lenet", "K": 1, "T": T, "real_batch_size": plan.config.real_batch_size},
        settings={"optimizer": ("Adam", adam), **settings},
    )


def _images(seed: int, smoke: bool) -> Compared:
    """Dataset Distillation."""
    steps = 2 if smoke else 10
    return _lenet(seed, smoke, T=steps, settings={"kind": "images"}, num_steps=steps)


def _implicit(seed: int, smoke: bool) -> Compared:
    """Its implicit gradient by a Neumann series."""
    steps = 2 if smoke else 10
    series = {"num_terms": steps, "alpha": 0.1, "damping": 0.1, "weight_decay": 0.01}
    return _lenet(
        seed,
        smoke,
        T=steps,
        settings={"kind": "implicit", "num_steps": steps, "step_size": 0.02, **series},
        num_steps=1,
        gradient="implicit",
        linear_solver="neumann",
        neumann_terms=series["num_terms"],
        neumann_alpha=series["alpha"],
        damping=series["damping"],
        weight_decay=series["weight_decay"],
        inner_momentum=0.0,
        inner_tolerance=0.0,
        max_inner_steps=steps,
    )


def _generator(seed: int, smoke: bool) -> Compared:
    """Generative Teaching Networks."""
    steps = 2 if smoke else 10
    return _lenet(
        seed,
        smoke,
        T=steps,
        settings={"kind": "generator", "image_side": 28, "classes": CLASSES},
        num_steps=1,
        method="gtn",
        teacher="generator",
        batch_size=8 if smoke else 32,
        distill_steps=steps,
        generator_width=4 if smoke else 32,
        generator_hidden=8 if smoke else 256,
        inner_momentum=0.5,
        learned=("learning_rate", "momentum"),
        positive="softplus",
    )


def _matching(name: str, seed: int, smoke: bool) -> Compared:
    """A matching method at its paper's size: a step of `matching_steps.STEPS`."""
    step, shape = STEPS[name], SHAPES["convnet"]
    width, real_batch_size = (4, 2) if smoke else (128, 256)
    network = learner("convnet", image_shape=shape, num_classes=CLASSES, width=width)
    teacher = images(image_shape=shape, num_classes=CLASSES, images_per_class=step.per_class)
    recipe = METHODS[step.method]
    scale = None if step.method == "dc" else SCALE
    method = recipe.make(
        network,
        teacher,
        augmentation=None if scale is None else _scaled(CLASSES * step.per_class),
        real_batch_size=real_batch_size,
    )

    def weights(state: DistillState, key: Array) -> Params:
        if step.method == "dm":  # a new network for every outer step
            networks = fresh(network).context((), None, stream(at_step(key, state.step), "learners"), 1)
        else:
            networks = state.population.params
        return jax.tree.map(lambda a: a[0], networks)

    outer = {"lr": recipe.defaults["outer_learning_rate"], "momentum": recipe.defaults["outer_momentum"]}
    return Compared(
        method,
        Data(random_images(shape, CLASSES * real_batch_size, seed).train, None),
        network,
        weights,
        length=1,
        told={
            "learner": "convnet",
            "K": 1,
            "images_per_class": step.per_class,
            "width": width,
            "real_batch_size": real_batch_size,
        },
        settings={
            "kind": step.method,
            "classes": CLASSES,
            "width": width,
            "scale": scale,
            "epochs": epochs_between(step),
            "optimizer": ("SGD", outer),
        },
    )


def _scaled(batch: int) -> Augmentation:
    """All images at `SCALE`: matched ones by one draw, the `batch` that networks train on by one for each."""
    scale = operation("scale")
    each = with_parameters(scale, {"steps": jnp.tile(jnp.array(SCALE), (batch, 1))}, per_image=True)
    return Augmentation(with_parameters(scale, {"steps": jnp.array(SCALE)}), each)


COMPARED: dict[str, Callable[[int, bool], Compared]] = {
    "images": _images,
    "implicit": _implicit,
    "generator": _generator,
    "dm_10": partial(_matching, "dm 10"),
    "dc_1": partial(_matching, "dc 1"),
    "dc_10": partial(_matching, "dc 10"),
    "dsa_10": partial(_matching, "dsa 10"),
}
"""(seed, smoke) -> the outer step, by name."""
SECONDS = {
    "images": 2.1,
    "implicit": 2,
    "generator": 4,
    "dm_10": 6,
    "dc_1": 18,
    "dc_10": 45,
    "dsa_10": 52,
}
"""Of one round of both sides, about, on two cores."""
