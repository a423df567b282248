"""What nobody chose: table < recipe (small images) < gradient < chosen; and what cannot go together."""

import pytest
from helpers import message

from jaxdistill.config.option import UNSET, Options, option, options
from jaxdistill.config.owners import HEAD_SOLVED
from jaxdistill.config.resolve import KNOWN, acting, check_effects, defaults, facts_before_loading, resolve
from jaxdistill.config.table import GRADIENTS, Config, DataOptions, SeedOptions
from jaxdistill.core.checks import UserError
from jaxdistill.core.registry import options_of
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts
from jaxdistill.teachers.storage import images_within

SMALL, LARGE = Facts((16, 12, 1), 10), Facts((17, 17, 1), 10)


def resolved(facts=SMALL, **chosen):
    return resolve(Config(**chosen), facts)


def values(found, *names):
    return [getattr(found, name) for name in names]


def test_each_source_wins_over_the_one_before():
    names = ("inner_learning_rate", "distill_epochs", "learner", "schedule", "checkpoint_every")
    table = {name: option.default for name, option in Config.options().items()}
    assert [table[name] for name in names] == [0.05, 10, "mlp", "cosine", 500]
    assert (
        values(resolved(None), *names)
        == values(resolved(LARGE), *names)
        == [0.02, 3, "lenet", "halving", 500]
    )
    assert values(resolved(SMALL), *names) == [0.05, 10, "mlp", "cosine", 500]
    assert values(resolved(gradient="implicit"), *names) == [0.1, 1, "mlp", "cosine", 500]
    mine = {"inner_learning_rate": 0.7, "learner": "linear", "schedule": "constant"}
    assert values(resolved(gradient="implicit", **mine), *names) == [0.7, 1, "linear", "constant", 500]


def test_images_are_small_up_to_sixteen_pixels():
    assert Facts((16, 16, 3), 10).small and not Facts((16, 17, 3), 10).small
    assert values(resolved(LARGE, method="dc"), "learner", "width", "depth") == ["convnet", None, None]
    assert values(resolved(SMALL, method="dc"), "learner", "width", "depth") == ["convnet", 16, 2]


def test_a_gradient_brings_its_defaults():
    names = ("learned", "weight_decay", "inner_momentum", "distill_epochs", "backprop_last")
    assert values(resolved(), *names) == [("learning_rate",), 0.0, 0.0, 10, None]
    assert values(resolved(gradient="truncated"), *names) == [("learning_rate",), 0.0, 0.0, 10, 5]
    assert values(resolved(gradient="implicit"), *names) == [(), 0.01, 0.9, 1, None]
    assert resolved(gradient="implicit", weight_decay=0.5, damping=0.0).weight_decay == 0.5
    long = resolved(gradient="truncated", distill_steps=4, images_per_class=4, distill_epochs=1)
    assert long.backprop_last == 2
    assert resolved(method="mtt").remat == "step"  # meant for unrolled gradients alone
    assert resolved(method="mtt", gradient="accumulated").remat == "none"


def test_a_recipe_wins_over_the_defaults_of_its_own_gradient_alone():
    names = ("outer_loss", "ridge", "inner_tolerance", "implicit_clip", "hyper_learning_rate")
    assert values(resolved(method="rcig"), *names) == ["platt", 5e-4, 1e-2, True, 0.03]
    other = resolved(method="rcig", gradient="closed_form")
    assert values(other, *names) == ["squared", 5e-4, 1e-3, False, 0.03]
    assert values(resolved(gradient="convexified"), *names) == ["squared", 5e-4, 1e-2, True, None]
    assert values(resolved(LARGE, method="frepo"), "ridge", "ridge_unit") == [1e-6, "trace"]
    found = resolved(LARGE, method="frepo", gradient="convexified")
    assert values(found, "ridge", "ridge_unit") == [5e-4, "images"]
    assert resolved(method="rcig", gradient="implicit").implicit_clip is False
    pool = dict(resolved(method="rcig").own)
    assert (pool["pool_size"], pool["max_age_steps"], pool["age_learning_rate"]) == (30, 15, 5e-5)
    assert dict(resolved(method="frepo").own)["pool_size"] == 10
    assert dict(resolved(method="rcig", pool_size=4).own)["pool_size"] == 4


def test_a_chosen_width_is_that_of_every_block():
    names = ("widths", "width", "depth", "eval_activation")
    assert values(resolved(LARGE, method="rcig"), *names) == [(128, 256, 512), None, None, "relu"]
    assert values(resolved(LARGE, method="rcig", width=32), *names) == [None, 32, None, "relu"]
    assert values(resolved(LARGE, method="rcig", learner="mlp"), *names) == [None, None, None, None]


def test_settings_of_a_network_or_teacher_are_for_that_one_alone():
    names = ("learner", "initialization", "width")
    assert values(resolved(LARGE), *names) == ["lenet", "xavier", None]
    assert values(resolved(LARGE, learner="mlp"), *names) == ["mlp", None, None]
    assert values(resolved(LARGE, learner="lenet"), *names) == ["lenet", "xavier", None]
    assert values(resolved(method="gtn"), "learner", "width", "batch_size") == ["mlp", 64, 16]
    assert values(resolved(method="gtn", learner="convnet"), "width", "batch_size") == [None, 16]
    pictures = resolved(method="gtn", teacher="images")
    assert values(pictures, "width", "batch_size", "distill_steps") == [64, None, 1]


def test_settings_that_follow_from_others():
    rates = {
        0.1: {"method": "dc"},
        0.01: {"method": "dsa", "learner": "mlp"},
        1.0: {"method": "dm", "images_per_class": 50},
        10.0: {"method": "dm", "images_per_class": 100},
    }
    assert all(resolved(**chosen).outer_learning_rate == rate for rate, chosen in rates.items())
    assert resolved(method="dc").num_outer_steps == 1000
    assert resolved(method="dc", images_per_class=10).num_outer_steps == 10_000
    assert resolved(method="dc", matches=3).num_outer_steps == 3000
    assert resolved(method="dc", num_outer_steps=7, images_per_class=10).num_outer_steps == 7
    assert values(resolved(method="dm"), "start", "population") == ["real", "fresh"]
    assert values(resolved(method="dc"), "start", "population") == ["noise", "persistent"]
    assert resolved(population="fixed").num_learners == 1


@pytest.mark.parametrize(
    "chosen",
    [
        {"gradient": "implicit", "outer_loss": "platt", "hyper_learning_rate": 0.1},
        {"gradient": "closed_form", "outer_loss": "platt", "hyper_learning_rate": 0.1},
        {"learned": ("momentum",), "hyper_learning_rate": 0.1},
        {"label_margin": 0.5, "soft_labels": True},
        {"method": "frepo", "label_margin": 0.5},
        {"method": "frepo", "inner_loss": "cross_entropy"},  # of the pool
        {"gradient": "closed_form", "inner_loss": "squared"},
    ],
    ids=lambda chosen: ",".join(chosen),
)
def test_an_option_that_acts_may_be_chosen(chosen):
    check_effects(Config(**chosen), SMALL)


def test_a_budget_counts_free_labels():
    chosen = Config(method="frepo", decoder="bases", num_bases=8, budget="ipc:2")
    free, fixed = (resolve(chosen.replace(labels=kind), SMALL) for kind in ("free", "probabilities"))
    found = [
        images_within(
            "ipc:2", "bases", SMALL.image_shape, SMALL.num_classes, learned_labels=kind, num_bases=8
        )
        for kind in (True, False)
    ]
    assert [free.images_per_class, fixed.images_per_class] == found and found[0] != found[1]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("facts", [SMALL, LARGE], ids=["small", "large"])
def test_a_resolved_config_resolves_to_itself(method, facts):
    """Whatever is known of the images: so that a saved config is read back as it was."""
    gradients = [g for g in GRADIENTS if g != "auto"] if METHODS[method].trains else ["unrolled"]
    if "outer_loss" not in options_of(METHODS[method].make):
        gradients = [g for g in gradients if g not in HEAD_SOLVED]
    for gradient in gradients:
        found = resolved(facts, method=method, gradient=gradient)
        assert UNSET not in found.chosen().values() and set(found.chosen()) >= set(Config.options())
        assert resolve(found, facts) == found
        names = acting(found)
        kept = {name: found.chosen()[name] for name in names}
        again = resolve(Config(**kept), None)
        assert {name: again.chosen()[name] for name in names} == kept


def test_options_act_where_something_takes_them():
    def act(**chosen):
        return set(acting(resolved(**chosen)))

    always = {"dataset", "images_per_class", "method", "learner", "num_learners", "seed", "clip"}
    matching, inner = {"real_batch_size", "class_strategy", "microbatch"}, {"inner_learning_rate", "gradient"}
    dd, dc, dm = (act(method=method) for method in ("dd", "dc", "dm"))
    assert always <= dd & dc & dm
    assert inner | {"remat", "validate_every", "distill_epochs"} <= dd and not inner & (dc | dm)
    assert matching <= dc & dm and "class_strategy" not in dd
    assert {"distance", "by_class", "matches", "match_epochs"} <= dc and "feature_layers" not in dc
    assert {"feature_layers", "augment"} <= dm and not {"distance", "matches"} & dm
    assert "outer_b1" in dd and "outer_momentum" not in dd
    assert "outer_momentum" in dc and "outer_b1" not in dc
    mtt = act(method="mtt")
    assert {"experts", "start_epochs", "inner_batch_size"} <= mtt and "real_batch_size" not in mtt
    assert {"start", "soft_labels"} <= dd and "generator_width" not in dd
    gtn = act(method="gtn")
    assert {"generator_width", "noise_size"} <= gtn and not {"start", "architecture"} <= gtn
    implicit = act(gradient="implicit")
    assert {"damping", "solver_steps", "warm_start"} <= implicit and not {"remat", "nystrom_rank"} & implicit
    assert "nystrom_rank" in act(gradient="implicit", linear_solver="nystrom")
    assert "width" in dd and "width" not in act(learner="linear")


def test_settings_of_rat_follow_from_its_steps_and_its_data_set():
    large, small = Facts((28, 28, 1), 10), Facts((8, 8, 1), 10)
    paper = resolve(Config(method="rat", dataset="mnist"), large)
    assert (paper.backprop_last, paper.distill_epochs, paper.random_window) == (60, 200, True)
    assert (paper.augment, paper.start, paper.relative_clip) == (("rotate",), "unit_noise", 2.0)
    assert resolve(Config(method="rat", dataset="cifar10"), large).augment == ("flip", "rotate")
    assert resolve(Config(method="rat", dataset="cifar10", augment=["crop"]), large).augment == ("crop",)
    assert resolve(Config(method="rat", distill_epochs=10), small).backprop_last == 3
    assert resolve(Config(method="rat", distill_epochs=10, backprop_last=7), small).backprop_last == 7
    whole = resolve(Config(method="rat", gradient="unrolled"), small)
    assert (whole.backprop_last, whole.random_window) == (None, False)
    assert resolve(Config(gradient="truncated", distill_epochs=8), small).backprop_last == 4


def test_settings_of_idc_follow_from_its_images_and_learners():
    large, own = Facts((28, 28, 1), 10), lambda config: dict(config.own)
    one = resolve(Config(method="idc"), large)
    assert (one.decoder, one.images_per_class, one.outer_learning_rate) == ("multiformation", 4, 0.008)
    assert own(one)["age_data"] == "real" and (own(one)["max_age"], own(one)["pool_size"]) == (800, 1)
    ten = resolve(Config(method="idc", images_per_class=40, age_steps=32, num_learners=3), large)
    assert ten.outer_learning_rate == pytest.approx(0.08)
    assert (own(ten)["max_age"], own(ten)["pool_size"]) == (3200, 3)
    assert ten.synthetic_batch_size is None
    many = resolve(Config(method="idc", images_per_class=200, outer_learning_rate=0.5, pool_size=2), large)
    assert (many.synthetic_batch_size, many.outer_learning_rate, own(many)["pool_size"]) == (128, 0.5, 2)
    fresh = resolve(Config(method="idc", population="fresh"), large)
    assert "age_data" not in own(fresh) and own(fresh)["factor"] == 2
    assert own(resolve(Config(method="frepo"), large))["age_data"] == "synthetic"


IMPLICIT, CONVEXIFIED = {"gradient": "implicit"}, {"gradient": "convexified"}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"method": "dx"},
            "method: expected one of dc, dd, dm, dsa, frepo, gtn, idc, kip, mtt, rat, rcig, got 'dx'.",
        ),
        ({"learner": "mpl"}, "learner: expected one of alexnet, convnet"),
        ({"population": "pool"}, "population: expected one of ages, experts, fixed, fixed_pretrained, fresh"),
        (
            {"gradient": "explicit"},
            "gradient: expected one of accumulated, auto, closed_form, convexified, implicit, tru",
        ),
        ({"random_window": True}, "no random_window with gradient=unrolled, got True."),
        ({"damping": 0.2}, "no damping with gradient=unrolled, got 0.2."),
        ({"memory_budget": "2GB"}, "no memory_budget with gradient=unrolled"),
        ({"linear_solver": "neumann"}, "no linear_solver with gradient=unrolled"),
        ({"gradient": "truncated", "remat": "step"}, "no remat with gradient=truncated, got step."),
        (IMPLICIT | {"remat": "step"}, "no remat with gradient=implicit"),
        (IMPLICIT | {"neumann_alpha": 0.1}, "no neumann_alpha with linear_solver=cg, got 0.1."),
        (IMPLICIT | {"distill_epochs": 5}, "distill_epochs 1 with implicit gradients"),
        (IMPLICIT | {"inner_tolerance": 0.0, "max_inner_steps": 0}, "inner_tolerance >= 1e-05 with max"),
        (
            IMPLICIT | {"inner_tolerance": 1e-7, "max_inner_steps": 0},
            "inner_tolerance >= 1e-05 with max_i",
        ),
        (IMPLICIT | {"linear_solver": "identity", "warm_start": True}, "a linear_solver that can start fr"),
        (IMPLICIT | {"implicit_clip": True}, "no implicit_clip with gradient=implicit, got True"),
        (CONVEXIFIED | {"linear_solver": "gauss_newton_cg"}, "a linear_solver of the Hessian"),
        (
            CONVEXIFIED | {"linear_solver": "nystrom", "ridge_unit": "trace"},
            "ridge_unit=images with linear_solver=nystrom",
        ),
        (CONVEXIFIED | {"damping": 0.2}, "no damping with gradient=convexified, got 0.2."),
        (CONVEXIFIED | {"inner_learning_rate": 0.3}, "no inner_learning_rate with gradient=convexified"),
        (CONVEXIFIED | {"linearized": True}, "no linearized with gradient=convexified, got True"),
        (CONVEXIFIED | {"ridge": 0.0}, "ridge > 0 with gradient=convexified, whose problem is singular"),
        (CONVEXIFIED | {"distill_epochs": 2}, "no distill_epochs with gradient=convexified, got 2"),
        (CONVEXIFIED | {"linear_solver": "identity", "warm_start": True}, "a linear_solver that can start"),
        (CONVEXIFIED | {"method": "mtt"}, "tests trained networks on real images, with gradient=convexified"),
        (CONVEXIFIED | {"protocol": "as_distilled"}, "with gradient=convexified, which trains no inner"),
        ({"gradient": "auto"}, "memory_budget, such as 2GB, got none"),
        ({"gradient": "auto", "memory_budget": "1GB", "damping": 0.3}, "no damping with gradient=auto"),
        (
            {"method": "dc", "gradient": "implicit"},
            "no gradient with method=dc, got implicit. It trains",
        ),
        ({"method": "dm", "inner_learning_rate": 0.3}, "no inner_learning_rate with method=dm"),
        ({"method": "dm", "distill_epochs": 2}, "no distill_epochs with method=dm, got 2"),
        ({"method": "dm", "distance": "l2"}, "no distance with method=dm, got l2."),
        ({"method": "dm", "matches": 3}, "no matches with population=fresh, got 3"),
        ({"method": "dm", "match_learning_rate": 0.1}, "no match_learning_rate with population=fresh"),
        ({"distance": "l2"}, "no distance with method=dd, got l2"),
        ({"method": "kip", "augment": ["crop"]}, "no augment with method=kip, got ['crop']"),
        ({"method": "kip", "augment_strength": 0.5}, "no augment_strength with method=kip, got 0.5"),
        ({"method": "dc", "feature_layers": "all"}, "no feature_layers with method=dc, got all"),
        ({"method": "dc", "outer_momentum": 0.9, "outer_optimizer": "adam"}, "outer_optimizer=adam, got 0.9"),
        ({"method": "mtt", "population": "fresh"}, "experts with method=mtt and another population"),
        ({"population": "experts"}, "experts with method=mtt and another population"),
        ({"method": "mtt", "validate_every": 2}, "no validate_every with method=mtt"),
        (
            {"method": "dm", "protocol": "as_distilled"},
            "one of dc, dc_augmented, dsa, idc, idc_unmixed, frepo, rcig, rat with method=dm, which",
        ),
        ({"pool": "x"}, "no pool with population=fresh"),
        ({"population": "fixed", "num_learners": 4}, "num_learners 1, since all of them are equal, got 4"),
        ({"generator_width": 4}, "no generator_width with teacher=images"),
        ({"method": "gtn", "start": "real"}, "no start with teacher=generator"),
        ({"learner": "own", "width": 3}, "no width with learner=own"),
        ({"inner_optimizer": "adam", "inner_momentum": 0.5}, "inner_momentum 0 with adam, got 0.5"),
        ({"inner_learning_rate": 3.0}, "inner_learning_rate <= max_inner_learning_rate = 2, got 3.0"),
        ({"step_sizes": []}, "at least one of step_sizes, got none"),
        ({"step_sizes": [0.1, 0.0]}, "step_sizes > 0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_go_together_is_one_line(chosen, says):
    with pytest.raises(UserError) as error:
        resolved(**chosen)
    assert says in message(error)


def test_an_option_without_effect_may_be_spelled_out_at_its_default():
    assert resolved(damping=0.1) == resolved() and resolved(method="dm", distill_epochs=1) == resolved(
        method="dm"
    )


@pytest.mark.parametrize(
    ("chosen", "facts"),
    [
        ({}, Facts((8, 8, 1), 10)),
        ({"dataset": "mnist"}, Facts((28, 28, 1), 10)),
        ({"dataset": "cifar100", "image_size": 16}, Facts((16, 16, 3), 100)),
        ({"dataset": "mine.npz"}, None),
    ],
)
def test_a_name_says_what_images_are_like(chosen, facts):
    assert facts_before_loading(Config(**chosen)) == facts


def test_an_image_size_says_whether_images_are_small():
    assert facts_before_loading(Config(dataset="mine.npz", image_size=8)).small
    assert not facts_before_loading(Config(dataset="mine.npz", image_size=20)).small
    assert set(KNOWN) >= {"digits", "mnist", "cifar10"}


@options
class Script(DataOptions, SeedOptions):
    title = "script"
    factor: float = option(2.0, "what all numbers are multiplied by", above=0)


def test_options_without_a_method_have_the_defaults_of_their_table():
    found = resolve(Script(factor=3))
    assert found.chosen() == {name: o.default for name, o in Script.options().items()} | {"factor": 3.0}
    assert defaults(Script())["factor"] == 2.0 and isinstance(found, Options)
