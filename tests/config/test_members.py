"""One member, one file: a factory and one line in its registry bring flags, help, defaults and runs.

Each toy below is what a user writes; nothing else of the library knows of it.
"""

from typing import Any

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message, same_bits

import jaxdistill as jd
from experiments import cli, distill
from experiments.report.data import load as load_rows
from jaxdistill.config import build
from jaxdistill.config.owners import owner
from jaxdistill.config.resolve import acting, resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.core.registry import Registry
from jaxdistill.core.types import Array, Learner, Method, Population, Teacher
from jaxdistill.data import DATASETS
from jaxdistill.data.dataset import Raw
from jaxdistill.inner.optimizers import sgd
from jaxdistill.inner.solvers import LINEAR_SOLVERS, LinearSolver
from jaxdistill.inner.solvers.identity import identity
from jaxdistill.learners import LEARNERS
from jaxdistill.methods import METHODS
from jaxdistill.methods.bilevel import bilevel, num_inner_steps
from jaxdistill.methods.recipe import MATCHING, Facts, Recipe, outer_optimizer, settings_of
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.fresh import fresh
from jaxdistill.runs.protocols import protocol_name
from jaxdistill.runtime.progress import silent
from jaxdistill.teachers import TEACHERS
from jaxdistill.teachers.images import images

SMALL = Facts((8, 8, 1), 10)


def toy(
    learner: Learner,
    teacher: Teacher,
    *,
    temperature: float = 2.0,
    num_learners: int | None = None,
    real_batch_size: int | None = None,
    population: Population | None = None,
    outer_optimizer: Any = None,
) -> Method:
    """Matches mean features at a temperature.

    Args:
      temperature: what features are divided by.
    """
    chosen = settings_of(TOY, teacher, num_learners=num_learners, real_batch_size=real_batch_size)

    def objective(meta, params, real, probe, key):
        def mean(x: Array) -> Array:
            return learner.embed(params, x).mean(0) / temperature

        batches = teacher.batches(meta.teacher, key)
        loss = jnp.sum((mean(real.x) - mean(batches.x[0])) ** 2)
        return loss, {"loss": loss}

    return bilevel(
        teacher=teacher,
        inner_optimizer=sgd(num_steps=num_inner_steps(teacher), learned=()),
        population=population or fresh(learner),
        objective=objective,
        outer_optimizer=outer_optimizer or outer_optimizer_of(chosen),
        num_learners=chosen["num_learners"],
        real_batch_size=chosen["real_batch_size"],
    )


outer_optimizer_of = outer_optimizer
TOY = Recipe(
    make=toy,
    title="Toy Matching",
    defaults={**MATCHING, "outer_learning_rate": 0.1, "num_outer_steps": 3},
    small={"learner": "linear", "real_batch_size": 16},
    trains=False,
    protocol="dc",
)


def flat(
    *, image_shape: tuple[int, int, int], num_classes: int, images_per_class: int = 1, contrast: float = 0.5
) -> Teacher:
    """Noise of less contrast.

    Args:
      contrast: the deviation of the pixels at the start.
    """
    made = images(image_shape=image_shape, num_classes=num_classes, images_per_class=images_per_class)
    return made._replace(init=lambda key: jax.tree.map(lambda x: contrast * x, made.init(key)))


def scaled(image_shape: tuple[int, int, int], num_classes: int, *, gain: float = 1.0) -> Learner:
    """A linear network whose logits are scaled.

    Args:
      gain: factor of the logits.
    """
    net = jd.learner("linear", image_shape=image_shape, num_classes=num_classes)
    return net._replace(apply=lambda params, x: gain * net.apply(params, x))


def shrunken(learner: Learner, *, share: float = 0.5) -> Population:
    """Fresh networks with smaller weights.

    Args:
      share: of the weights that is kept.
    """
    made = fresh(learner)

    def context(state, bank, key, num_learners):
        return jax.tree.map(lambda a: share * a, made.context(state, bank, key, num_learners))

    return made._replace(context=context)


def halved(*, factor: float = 0.5) -> LinearSolver:
    """A multiple of the identity.

    Args:
      factor: the multiple.
    """
    return identity(scale=factor)


def stripes(source: object) -> Raw:
    """Two classes of noisy stripes."""
    y = np.arange(40) % 2
    x = np.zeros((40, 8, 8, 1), np.float32)
    x[y == 0, ::2], x[y == 1, :, ::2] = 1, 1
    x += np.random.default_rng(0).normal(0, 0.1, x.shape).astype(np.float32)
    return Raw(name="stripes", x=x, y=y, class_names=("rows", "columns"), scale=1.0)


@pytest.fixture
def register(monkeypatch):
    """Adds a member to a registry until the test ends."""

    def add(registry: Registry, name: str, member: Any) -> None:
        monkeypatch.setitem(registry, name, member)

    return add


@pytest.fixture
def toys(register):
    register(METHODS, "toy", TOY)
    register(TEACHERS, "flat", flat)
    register(LEARNERS, "scaled", scaled)
    register(POPULATIONS, "shrunken", shrunken)
    register(LINEAR_SOLVERS, "halved", halved)
    register(DATASETS, "stripes", stripes)


def parsed(*flags: str) -> Config:
    return cli.parsed(distill.Options, "", ["distill", *flags])


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        (["--method=toy"], "temperature"),
        (["--method", "toy"], "temperature"),
        (["--teacher=flat"], "contrast"),
        (["--learner=scaled"], "gain"),
        (["--population=shrunken"], "share"),
        (["--gradient=implicit", "--linear_solver=halved"], "factor"),
    ],
)
def test_a_member_brings_its_flag_while_it_is_chosen(toys, capsys, flags, option):
    config = parsed(*flags, f"--{option}=3")
    assert config.own == {option: 3.0} and config.chosen()[option] == 3.0
    assert option in acting(resolve(config, SMALL))
    with pytest.raises(SystemExit) as stop:
        parsed(f"--{option}=3")
    assert stop.value.code == 1 and f"expected a flag, got '{option}'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed(*flags, f"--{option}=much")
    assert f"--{option}=much" in capsys.readouterr().err


def test_a_flag_file_may_choose_the_member(toys, tmp_path):
    (tmp_path / "toy.cfg").write_text("--method=toy\n--temperature=4\n")
    assert parsed(f"--flagfile={tmp_path / 'toy.cfg'}").own == {"temperature": 4.0}


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_shows_the_flag_with_default_and_docstring(toys, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        parsed("--method=toy", flag)
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--temperature [2.0]\n      what features are divided by\n" in out
    if flag == "--help":
        assert "toy is Toy Matching.\nThe defaults are its settings for small images." in out
        assert "--outer_learning_rate [0.1]" in out and "--distill_epochs" not in out
    else:
        assert "dd, dm, dsa, frepo, gtn, idc, kip, mtt, rat, rcig, toy" in " ".join(out.split())


def test_python_takes_the_option_of_a_chosen_member(toys):
    assert Config(method="toy", temperature=3).own == {"temperature": 3.0}
    with pytest.raises(UserError) as error:
        Config(method="toy", temperatur=3)
    assert "expected an option, got 'temperatur'. Near: temperature" in message(error)
    with pytest.raises(UserError) as error:
        Config(temperature=3)
    assert "expected an option, got 'temperature'" in message(error)
    with pytest.raises(UserError) as error:
        Config(method="toy", temperature="hot")
    assert "temperature as a number, got 'hot'" in message(error)
    assert Config(method="toy", temperature=3) != Config(method="toy")
    chosen = Config(method="toy", temperature=3)
    assert chosen.replace(seed=1).own == chosen.pick(distill.Options).own == {"temperature": 3.0}
    assert chosen.replace(temperature=4).own == {"temperature": 4.0}
    assert chosen.replace(method="dd") == Config(method="dd") == chosen.pick(Config, method="dd")


def test_a_method_brings_its_settings_and_its_protocol(toys):
    small, large = (resolve(Config(method="toy"), facts) for facts in (SMALL, Facts((28, 28, 1), 10)))
    assert (small.learner, small.real_batch_size, small.outer_learning_rate) == ("linear", 16, 0.1)
    assert (large.learner, large.real_batch_size, large.num_outer_steps) == ("convnet", 256, 3)
    assert protocol_name(small) == "dc"
    with pytest.raises(UserError) as error:
        resolve(Config(method="toy", distance="l2"), SMALL)
    assert "no distance with method=toy" in message(error)
    assert owner(Config.options()["distance"], {"method": "toy"}) == ("method", "toy")


def test_a_member_that_the_methods_settings_choose_brings_its_option_too(toys, monkeypatch):
    recipe = METHODS["toy"]._replace(defaults={**METHODS["toy"].defaults, "teacher": "flat"})
    monkeypatch.setitem(METHODS, "toy", recipe)
    assert resolve(Config(method="toy"), SMALL).own["contrast"] == 0.5
    assert resolve(Config(method="toy", contrast=2), SMALL).own["contrast"] == 2
    with pytest.raises(UserError):
        Config(contrast=2)


def test_a_method_may_choose_its_gradient(toys, monkeypatch):
    recipe = METHODS["dd"]._replace(defaults={"gradient": "implicit"}, small={})
    monkeypatch.setitem(METHODS, "dd", recipe)
    found = resolve(Config(method="dd"), SMALL)
    assert (found.gradient, found.distill_epochs, found.learned) == ("implicit", 1, ())


def test_a_toy_method_is_run_saved_opened_and_reported(toys, tmp_path):
    options = {"method": "toy", "num_outer_steps": 2, "progress": False}
    options |= {"num_eval_learners": 1, "num_baseline_learners": 0}
    run = jd.distill(**options, temperature=3, run_dir=tmp_path / "run")
    assert run.step == 2 and run.plan.identity["temperature"] == 3.0
    assert repr(run).startswith("Run(toy on digits: 1 per class, 2 outer steps")
    assert jd.load_run(tmp_path / "run").plan.identity == run.plan.identity
    with silent():
        result = run.compare()
    ((row,), _) = load_rows(tmp_path / "run")
    assert row["gradient"] == "Toy Matching (run)" and row["accuracies"][0]["protocol"] == "dc"
    assert row["accuracies"][0]["every"] == result["test_accuracies"]
    assert "--method=toy" in row["command"] and "--temperature=3.0" in row["command"]
    other = jd.distill(**options)
    assert other.plan.identity["temperature"] == 2.0  # as a default that is listed
    ratio = np.asarray([row["loss"] for row in other.metrics]) / [row["loss"] for row in run.metrics]
    np.testing.assert_allclose(ratio, (3 / 2) ** 2, rtol=0.2)  # the images move on their own way
    with pytest.raises(UserError) as error:
        jd.distill(**options, temperature=4, run_dir=tmp_path / "run")
    assert "temperature: 3.0 there, 4.0 here" in message(error)


def test_toys_are_distilled_together(toys):
    """Each with an option of its own; every factory is called with it."""
    parts = {"teacher": "flat", "learner": "scaled", "population": "shrunken", "dataset": "stripes"}
    options = parts | {"method": "toy", "num_outer_steps": 1, "progress": False}
    plain = jd.distill(**options)
    assert plain.images.shape == (2, 8, 8, 1) and plain.data.info.class_names == ("rows", "columns")
    own = jd.distill(**options, contrast=0.25, share=1.0, gain=2.0)
    start = [run.plan.method.init(run.key).meta.teacher["x"] for run in (plain, own)]
    np.testing.assert_allclose(start[0], 2 * start[1], rtol=1e-6)
    made = build.teacher(plain.config, plain.data, plain.key)
    populations = [build.population(run.config, run.learner, made) for run in (plain, own)]
    context = [each.context((), None, plain.key, 1) for each in populations]
    same_bits(jax.tree.map(lambda a: 2 * a, context[0]), context[1])
    params = own.learner.init(own.key)
    same_bits(own.learner.apply(params, own.batch.x), 2 * plain.learner.apply(params, own.batch.x))


def test_a_solver_gets_its_option(toys, monkeypatch):
    seen = []
    monkeypatch.setattr("jaxdistill.config.build.linear_solver", lambda name, **options: seen.append(options))
    for chosen in ({"linear_solver": "halved", "factor": 3}, {"linear_solver": "neumann", "power_steps": 4}):
        build.solver(resolve(Config(gradient="implicit", **chosen), SMALL))
    assert seen == [{"factor": 3.0}, {"power_steps": 4}]


def test_members_are_picked_up_by_the_conformance_tests(toys):
    conformance.check_method("toy")
    conformance.check_population("shrunken")
    conformance.check_teacher("flat")
    assert "flat" in conformance.teacher_rows()


def test_nothing_of_the_toys_is_left():
    for registry in (METHODS, TEACHERS, LEARNERS, POPULATIONS, LINEAR_SOLVERS, DATASETS):
        assert not {"toy", "flat", "scaled", "shrunken", "halved", "stripes"} & set(registry)
