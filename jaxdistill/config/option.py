"""Options, and the frozen dataclasses that are made of options.

An option, a command line flag, a keyword of `jd.distill` and a field of a config share one name. A class of
options lists them with types, defaults and help texts: flags, `--help` and type checks are made from it.
"""

import dataclasses
import functools
import importlib
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self, cast, dataclass_transform

from jaxdistill.core.checks import IN_WORDS, above, at_least, fail, one_of
from jaxdistill.core.paths import as_path, check_text
from jaxdistill.core.registry import unknown


class Unset:
    """The value of an option that was not chosen."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Any = Unset()
LARGEST = 2**31 - 1
"""The largest whole number of an option without a bound: JAX counts in 32 bits."""
LARGEST_FLOAT = 3.4e38
"""The largest number that is one in float32."""
ACCEPTED: dict[type, Any] = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str | os.PathLike}
"""By type of an option: the Python types of its values."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option."""

    name: str
    default: Any
    """The value if neither the user nor a method, gradient or data set sets another."""
    help: str
    kind: type
    """The type of one value: bool, int, float or str."""
    many: bool = False
    """Takes several values, separated by commas on the command line."""
    optional: bool = False
    """None is a value."""
    some: bool = False
    """Of several values there has to be at least one."""
    known: str | tuple[str, ...] = ()
    """The names to choose from, or `module:attribute` of a collection of them."""
    also: tuple[str, ...] = ()
    """Names that are accepted and not listed."""
    joined: str = ""
    """What may stand between the names of a list in one text, as in `color_crop`."""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    """Bounds of a number: at least `low`, at most `high`, more than `above`, less than `below`."""
    of: str | None = None
    """The option that decides whether this one has an effect (`jaxdistill.config.owners`); None: always."""
    keyword: str | None = None
    """Its name as an argument of the factory, if that differs from `name`."""

    @property
    def names(self) -> Collection[str]:
        """The names to choose from; empty where any value will do."""
        if not isinstance(self.known, str):
            return self.known
        module, _, attribute = self.known.partition(":")
        return getattr(importlib.import_module(module), attribute)

    @property
    def taken_as(self) -> str:
        """Its name as an argument of the factory."""
        return self.keyword or self.name

    def checked(self, value: Any) -> Any:
        """The value in the option's own type.

        Raises:
          UserError: a value of another type, an unknown name, a number out of range.
        """
        if value is None and self.optional:
            return None
        if not self.many:
            return self._checked_one(value)
        if self.joined and isinstance(value, str):
            value = [value] if value else []
        if isinstance(value, str) or not isinstance(value, Collection):
            raise fail("options", f"{self.name} as a list", repr(value))
        if self.some and not value:
            raise fail("options", f"at least one of {self.name}", "none")
        if self.joined:
            value = [
                n for part in value for n in (part.split(self.joined) if isinstance(part, str) else [part])
            ]
        return tuple(self._checked_one(part) for part in value)

    def _checked_one(self, value: Any) -> Any:
        if not isinstance(value, ACCEPTED[self.kind]) or (isinstance(value, bool) and self.kind is not bool):
            raise fail("options", f"{self.name} as {IN_WORDS[self.kind]}", repr(value))
        value = os.fspath(value) if isinstance(value, os.PathLike) else self.kind(value)
        if self.kind is str:
            check_text("options", self.name, value)
            if value.startswith("~"):  # a shell leaves the ~ of --name=~/there
                value = str(as_path("options", value))
        if self.known and value not in self.also:
            one_of(self.name, value, self.names)
        if self.kind is float and not abs(value) <= LARGEST_FLOAT:
            where = " in float32" if math.isfinite(value) else ""
            raise fail("options", f"a finite {self.name}{where}", value)
        if self.low is not None:
            at_least("options", self.name, value, self.low)
        if self.above is not None:
            above("options", self.name, value, self.above)
        high = LARGEST if self.high is None and self.kind is int else self.high
        if high is not None and value > high:
            raise fail("options", f"{self.name} <= {high}", value)
        if self.below is not None and value >= self.below:
            raise fail("options", f"{self.name} < {self.below}", value)
        return value


def option(
    default: Any,
    help: str,
    *,
    some: bool = False,
    known: str | Collection[str] = (),
    also: tuple[str, ...] = (),
    joined: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    of: str | None = None,
    keyword: str | None = None,
) -> Any:
    """A field of a class of options; its annotation says the type. See `Option` for the arguments."""
    more = {"low": low, "high": high, "above": above, "below": below}
    more |= {"of": of, "keyword": keyword, "also": also, "joined": joined}
    more |= {"default": default, "help": help, "some": some}
    more |= {"known": known if isinstance(known, str) else tuple(known)}
    return dataclasses.field(default=UNSET, metadata=more)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def options(cls: type) -> Any:
    """Makes a class of options of a class whose fields are `option`s."""
    return dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)(cls)


class Options:
    """The base of all classes of options: a frozen value that records which options were chosen.

    A field without a chosen value is `UNSET` until `jaxdistill.config.resolve` fills it in.

    Raises:
      UserError: an unknown option (lists the near ones), a value of another type or out of range.

    Attributes:
      title: the heading of these options in `--help`.
      heading: the same, of a class that has an option called `title`.
      left_out: inherited options that the class does not have.
      own: options that only a registered member takes and that no class lists, by name.
    """

    title: ClassVar[str] = ""
    left_out: ClassVar[tuple[str, ...]] = ()
    own: Mapping[str, Any]

    if not typing.TYPE_CHECKING:  # type checkers make the signature from the fields

        def __init__(self, **chosen: Any):
            table, own = type(self).options(), {}
            others = {name: value for name, value in chosen.items() if name not in table}
            if others:
                from jaxdistill.config.owners import brought  # imports the members that were chosen

                known = brought(type(self), {n: v for n, v in chosen.items() if v is not UNSET})
                for name, value in others.items():
                    if name not in known:
                        remedy = f"{type(self).__name__}.options() lists them."
                        raise unknown("options", "an option", name, [*table, *known], remedy)
                    own[name] = known[name].checked(value)
            for name in chosen.keys() & table.keys():
                value = chosen[name]
                object.__setattr__(self, name, value if value is UNSET else table[name].checked(value))
            object.__setattr__(self, "own", types.MappingProxyType(own))

    @classmethod
    def settings(cls, chosen: Mapping[str, Any], facts: Any) -> Mapping[str, Any]:
        """Defaults of this class; they replace the defaults of the table, the method and the gradient.

        Args:
          chosen: the chosen options, by name.
          facts: of the images (`jaxdistill.methods.recipe.Facts`); None if nothing is known of them.
        """
        return {}

    @classmethod
    @functools.cache
    def options(cls) -> dict[str, Option]:
        """Every option by name, in the order of the groups."""
        return {name: option for group in cls.groups().values() for name, option in group.items()}

    @classmethod
    @functools.cache
    def groups(cls) -> dict[str, dict[str, Option]]:
        """The options by group: the title of the class that lists them first."""
        hints = typing.get_type_hints(cls)
        fields = cls.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
        found: dict[str, dict[str, Option]] = {}
        seen = set(cls.left_out)
        for base in _bases_in_order(cls):
            title = vars(base).get("heading", vars(base).get("title"))
            if not title:
                continue
            listed = vars(base).get("__annotations__", {})
            names = [n for n in listed if n in fields and fields[n].metadata and n not in seen]
            group = found.setdefault(title, {})
            for name in names:
                group[name] = _made(name, hints[name], fields[name].metadata)
            seen |= set(names)
        return {title: group for title, group in found.items() if group}

    def chosen(self) -> dict[str, Any]:
        """The chosen options and their values."""
        return {name: value for name, value in self.values().items() if value is not UNSET}

    def values(self) -> dict[str, Any]:
        """Every option and its value, `own` included; `UNSET` without a chosen value."""
        return {name: getattr(self, name) for name in type(self).options()} | dict(self.own)

    def replace(self, **changes: Any) -> Self:
        """The same options with some changed; `UNSET` removes a choice.

        Choosing another method, teacher or network drops the options in `own` that only the old one has.
        """
        changed = {name: getattr(self, name) for name in type(self).options()} | changes
        return type(self)(**self._own_of(type(self), changed) | changed)

    def with_smoke(self, short: Mapping[str, Any]) -> Self:
        """The options with the shorter settings of a trial run, if `smoke` was chosen; the user's choices
        win.

        It goes into a folder of its own, so that it is not in the way of the run that it tries.
        """
        chosen = self.chosen()
        if not chosen.get("smoke"):
            return self
        place = self.options().get("run_dir")
        own = {} if place is None or place.default is None else {"run_dir": f"{place.default}_smoke"}
        return self.replace(**{**own, **short, **chosen})

    def pick(self, other: "type[Other]", **changes: Any) -> "Other":
        """The options that another class has too, as that class, with `changes`.

        The `settings` of this class count as chosen there, unless the other class has the same `settings`.
        """
        names, chosen = other.options(), self.chosen()
        same = type(self).settings.__func__ is other.settings.__func__
        kept = {} if same else {n: v for n, v in self.settings(chosen, None).items() if n in names}
        kept |= {n: v for n, v in chosen.items() if n in names} | changes
        return other(**self._own_of(other, kept) | kept)

    def _own_of(self, other: "type[Options]", chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The options in `own` that `other` has too, given its chosen options."""
        if not self.own:
            return {}
        from jaxdistill.config.owners import brought

        known = brought(other, {name: value for name, value in chosen.items() if value is not UNSET})
        return {name: value for name, value in self.own.items() if name in known}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and cast(Self, other).chosen() == self.chosen()

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.chosen().items())))

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[()]]:
        return functools.partial(type(self), **self.chosen()), ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.chosen().items())
        return f"{type(self).__name__}({shown})"


Other = typing.TypeVar("Other", bound=Options)


def _bases_in_order(cls: type) -> list[type]:
    """A class after its bases, these from left to right: the order in which people list options."""
    found: list[type] = []
    for base in cls.__bases__:
        found += [c for c in _bases_in_order(base) if c not in found]
    return [*found, cls]


def _made(name: str, annotation: Any, metadata: Mapping[str, Any]) -> Option:
    kind, many, optional = kind_of(annotation)
    default = metadata["default"]
    return Option(
        name=name,
        kind=kind,
        many=many,
        optional=optional,
        **{**metadata, "default": tuple(default) if many and default is not None else default},
    )


def kind_of(annotation: Any) -> tuple[type, bool, bool]:
    """(type of one value, whether there are several, whether None is one) of an annotation."""
    arguments = typing.get_args(annotation)
    optional = types.NoneType in arguments
    if optional:
        (annotation,) = (each for each in arguments if each is not types.NoneType)
        arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return arguments[0], True, optional
    return annotation, False, optional
