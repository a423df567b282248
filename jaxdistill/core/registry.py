"""Registries: members by name, each imported when it is first asked for; one way to call a factory.

A registry knows its names without importing what is behind them, so that `--help` starts at once. A member is
added by one line in its registry, or at run time: `LEARNERS["mine"] = factory`.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, MutableMapping
from typing import Any, Generic, TypeVar

from jaxdistill.core.checks import fail

T = TypeVar("T")
MOST_LISTED = 12
"""An error lists this many known names."""


class Registry(MutableMapping[str, T], Generic[T]):
    """Members by name.

    Args:
      what: what one of them is, for errors: `learner`.
      members: name to `"module:attribute"`, imported when it is first asked for, or to the member itself.

    Example:
      >>> colors = Registry("color", {"pi": "math:pi"})
      >>> sorted(colors), round(colors["pi"], 2)
      (['pi'], 3.14)
    """

    def __init__(self, what: str, members: dict[str, str | T]):
        self.what = what
        self._members = dict(members)

    def __getitem__(self, name: str) -> T:
        member: Any = self._members[name]
        if isinstance(member, str):
            module, _, attribute = member.partition(":")
            member = self._members[name] = getattr(importlib.import_module(module), attribute)
        return member

    def __setitem__(self, name: str, member: str | T) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._members[name] = member

    def __delitem__(self, name: str) -> None:
        del self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only arguments of a factory with their defaults, such as `{"width": 128}`.

    Example:
      >>> def network(image_shape, *, width=128): ...
      >>> options_of(network)
      {'width': 128}
    """
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def make(table: Registry[Callable[..., T]], name: str, *arguments: Any, **options: Any) -> T:
    """Calls the factory of that name.

    Args:
      table: the registry.
      name: one of its names.
      *arguments: what every factory of the registry is given.
      **options: keyword-only arguments of this one.

    Raises:
      UserError: an unknown name, or an option that the factory does not take; both list the near ones.
    """
    factory = find(table, name)
    known = options_of(factory)
    for option in options:
        if option not in known:
            raise unknown(f"{table.what} {name}", "an option", option, known)
    return factory(*arguments, **options)


def find(table: Registry[T], name: str) -> T:
    """The member of that name.

    Raises:
      UserError: an unknown name; lists the known ones.
    """
    if name not in table:
        raise fail(table.what, f"one of {', '.join(sorted(table))}", repr(name))
    return table[name]


def unknown(where: str, what: str, name: str, known: Collection[str], remedy: str = "") -> Exception:
    """The error to raise for an unknown name.

    Args:
      where: what the name was given to.
      what: what it should name: `an option`.
      name: the name.
      known: all names; the error lists the near ones, or all where they are few.
      remedy: where all are listed, in place of a list that is too long.
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return fail(where, what, repr(name), f"Near: {', '.join(near)}.")
    if len(known) > MOST_LISTED:
        return fail(where, what, repr(name), remedy)
    return fail(where, f"{what} among {', '.join(sorted(known)) or 'none'}", repr(name))
