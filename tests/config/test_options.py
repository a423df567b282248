"""Classes of options: types, bounds, near names, values that can be compared, hashed and sent elsewhere."""

import copy
import dataclasses
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import message

from jaxdistill.config.option import UNSET, Options, kind_of, option, options
from jaxdistill.config.table import FREE, PLACES, Config, HostOptions
from jaxdistill.core.checks import UserError
from jaxdistill.core.registry import unknown


@options
class Size(Options):
    title = "size"
    width: int = option(8, "how wide", low=1, high=64)
    rates: tuple[float, ...] = option((0.1,), "step sizes", above=0)


@options
class Shape(Options):
    title = "shape"
    form: str = option("round", "what it looks like", known=("round", "square"), also=("own",))
    file: str | None = option(None, "where it lies")
    parts: tuple[str, ...] | None = option(None, "what it is made of")


@options
class Both(Shape, Size):
    title = "both"
    width: int = option(16, "how wide both are", low=1)
    smoke: bool = option(False, "a trial run")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"width": 2.5}, "width as a whole number, got 2.5"),
        ({"width": True}, "width as a whole number, got True"),
        ({"width": None}, "width as a whole number, got None"),
        ({"width": 0}, "options: expected width >= 1, got 0."),
        ({"width": 65}, "options: expected width <= 64, got 65."),
        ({"rates": 0.1}, "rates as a list, got 0.1"),
        ({"rates": "0.1"}, "rates as a list, got '0.1'"),
        ({"rates": (0.1, "1")}, "rates as a number, got '1'"),
        ({"rates": (0.1, 0.0)}, "rates > 0, got 0.0"),
        ({"rates": (math.nan,)}, "a finite rates, got nan"),
        ({"rates": (1e39,)}, "a finite rates in float32, got 1e+39"),
        ({"widht": 3}, "options: expected an option, got 'widht'. Near: width."),
        ({"colour": 3}, "options: expected an option among rates, width, got 'colour'."),
    ],
)
def test_values_are_checked_when_options_are_made(chosen, says):
    with pytest.raises(UserError) as error:
        Size(**chosen)
    assert says in message(error)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"form": "oval"}, "form: expected one of round, square, got 'oval'."),
        ({"file": 3}, "file as text, got 3"),
        ({"smoke": 1}, "smoke as true or false, got 1"),
        ({"width": 2**31}, "options: expected width <= 2147483647, got 2147483648."),
    ],
)
def test_names_and_texts_are_checked(chosen, says):
    with pytest.raises(UserError) as error:
        Both(**chosen)
    assert says in message(error)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sede", "options: expected an option, got 'sede'. Near: seed, schedule."),
        ("image_per_class", "got 'image_per_class'. Near: images_per_class"),
        ("temperature", "options: expected an option, got 'temperature'. Config.options() lists them."),
    ],
)
def test_an_unknown_option_is_one_line_with_the_near_ones(name, says):
    with pytest.raises(UserError) as error:
        Config(**{name: 1})
    assert says in message(error)


def test_few_names_are_all_listed():
    assert str(unknown("here", "a colour", "xyz", ["red", "blue"])) == (
        "here: expected a colour among blue, red, got 'xyz'."
    )
    assert str(unknown("here", "a colour", "xyz", [])) == "here: expected a colour among none, got 'xyz'."


def test_values_get_the_type_of_their_option():
    made = Both(width=np.int64(3), rates=[1, np.float32(0.5)], file=Path("a.npz"), form="own")
    assert (repr(made.width), made.rates, made.file, made.form) == ("3", (1.0, 0.5), "a.npz", "own")
    assert all(type(rate) is float for rate in made.rates)
    assert Both(file=None).file is None and Both(parts=()).parts == ()


def test_what_nobody_chose_is_unset():
    made = Both(width=3)
    assert made.file is UNSET and not UNSET and repr(UNSET) == "UNSET"
    assert made.chosen() == {"width": 3} and repr(made) == "Both(width=3)"
    assert Both().chosen() == {} and repr(Both()) == "Both()"
    assert Both(file=None).chosen() == {"file": None}  # None is a choice
    assert made.replace(file="a", width=UNSET) == Both(file="a")


def test_options_are_values():
    one, same, other = Both(width=3, rates=[1]), Both(rates=(1.0,), width=3), Both(width=4)
    assert one == same and hash(one) == hash(same) and one != other
    assert {one, same, other} == {one, other}
    assert Size(width=3) != Both(width=3) and one != "Both(width=3)"
    for change in (lambda: setattr(one, "width", 4), lambda: delattr(one, "width")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied == one and copied.file is UNSET
    config = Config(method="dc", seed=3)
    assert pickle.loads(pickle.dumps(config)) == config and {config: 1}[Config(seed=3, method="dc")] == 1


def test_a_class_has_the_options_of_its_bases_in_their_order():
    assert list(Both.groups()) == ["shape", "size", "both"]
    assert list(Both.options()) == ["form", "file", "parts", "width", "rates", "smoke"]


def test_a_script_may_give_an_option_another_default():
    assert Size.options()["width"].default == 8
    assert Both.options()["width"].default == 16 and Both.options()["width"].high is None


def test_options_of_another_class_are_picked():
    made = Both(width=3, form="square", smoke=True)
    assert made.pick(Size) == Size(width=3)
    assert made.pick(Size, rates=(0.5,)) == Size(width=3, rates=(0.5,))


def test_smoke_gives_way_to_the_user():
    short = {"width": 1, "rates": (0.3,)}
    assert Both(width=9).with_smoke(short) == Both(width=9)
    assert Both(width=9, smoke=True).with_smoke(short) == Both(width=9, smoke=True, rates=(0.3,))


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (int, (int, False, False)),
        (float | None, (float, False, True)),
        (tuple[str, ...], (str, True, False)),
        (tuple[float, ...] | None, (float, True, True)),
    ],
)
def test_an_annotation_says_the_type(annotation, kind):
    assert kind_of(annotation) == kind


def test_defaults_of_the_table_are_values_of_their_options():
    for name, each in Config.options().items():
        assert each.checked(each.default) == each.default, name
        assert each.help and each.name == name


def test_config_shows_what_was_chosen():
    assert repr(Config(method="dc", dataset="mnist", images_per_class=10)) == (
        "Config(dataset='mnist', images_per_class=10, method='dc')"
    )


def test_lists_of_options_name_options():
    assert set(PLACES) <= {*Config.options(), *HostOptions.options()}
    assert set(FREE) <= set(Config.options())


def test_operations_joined_by_underscores_are_the_list_of_them():
    names = ("color", "crop", "cutout", "flip", "scale", "rotate")
    for written in (names, ["color_crop_cutout_flip_scale_rotate"], "color_crop_cutout_flip_scale_rotate"):
        assert Config(method="dm", augment=written).augment == names
    assert Config(method="dm", augment="").augment == Config(method="dm", augment=[]).augment == ()
    with pytest.raises(UserError) as error:
        Config(method="dm", augment=["color_kutout"])
    assert message(error).startswith(
        "augment: expected one of color, crop, cutout, flip, rotate, scale, got 'kutout'."
    )
