"""The command line of every experiment: flags from a class of options, one-line errors, exit codes."""

import errno
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from absl import flags, logging

from experiments import signals
from experiments.start import HELP
from jaxdistill.config.option import Option, Options
from jaxdistill.config.owners import HEADS, acts, brought
from jaxdistill.config.resolve import defaults, facts_before_loading
from jaxdistill.config.table import Config, HostOptions
from jaxdistill.core.checks import Caution, UserError, fail
from jaxdistill.core.registry import unknown
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import recipe_of
from jaxdistill.runtime import progress

INDENT = " " * 6
NARROWEST, WIDEST = 30, 96
"""Columns of the help text; as many as the terminal has in between."""
VERSIONS = ("jaxdistill", "jax", "jaxlib", "flax", "optax", "commit", "prng", "x64")
"""Fields of the environment that have to be equal in all processes of a run."""
OF_ONE = ("process_id", "data_dir", "manual_dir")
"""Options that may differ between the processes of one run."""
SHORT = (
    *("method", "dataset", "images_per_class", "start", "learner", "width", "depth", "distill_epochs"),
    *("inner_learning_rate", "gradient", "batch_size", "distill_steps", "num_outer_steps"),
    *("outer_learning_rate", "num_learners", "real_batch_size", "experts", "seed"),
)
"""The options that `--help` shows if they have an effect and a value."""
ALWAYS = ("image_size", "pool", "run_dir")
"""Options that it shows without a value too."""
OWN_TITLE = f"only with the chosen {', '.join([*HEADS][:-1])} or {[*HEADS][-1]}"
"""The group of options that no class lists, in `--helpfull`."""
OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Errors without a file that standard output has if it is full or gone."""
C = TypeVar("C", bound=Options)


def main(run: Callable[[C], Any], cls: type[C], doc: str | None, argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs; exits with 1 on bad input (one line), with 128 + n on signal n.

    Args:
      run: the experiment.
      cls: its options.
      doc: the module's docstring, for `--help`.
      argv: the command line, `sys.argv` when None.

    A process of several ends with its last line, without waiting for the others (`jaxdistill.runtime.hosts`).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    config = parsed(cls, doc or "", list(sys.argv if argv is None else argv))

    from jaxdistill.runtime import hosts

    logging.set_verbosity(logging.WARNING)
    warnings.showwarning = partial(_show_warning, set())
    signals.listen()
    try:
        _run(run, config)
        signals.end()
    except SystemExit:
        if number := signals.stopped():
            signals.exit_at_once(128 + number)
        raise
    except Exception:  # a bug keeps its traceback
        if number := signals.stopped():  # raised by what the signal tore down
            signals.exit_at_once(128 + number)
            hosts.leave(128 + number)
        if not hosts.joined():
            raise
        hosts.settle()
        traceback.print_exc()
        hosts.leave(1)


def _run(run: Callable[[Any], Any], config: Options) -> None:
    """Runs, in one process or several; errors become lines and exit codes."""
    from jaxdistill.config import build
    from jaxdistill.runtime import hosts, profile
    from jaxdistill.runtime.compile_cache import enable_compile_cache
    from jaxdistill.runtime.loop import Interrupted

    chosen = config.chosen()

    def ended(line: str, code: int = 1) -> NoReturn:
        signals.hush()
        leave(line, code)

    try:
        several = hosts.start(**{n: v for n, v in chosen.items() if n in HostOptions.options()})
        enable_compile_cache()
        if several:
            hosts.agree("flags", {name: value for name, value in chosen.items() if name not in OF_ONE})
            here = profile.environment()
            hosts.agree("versions", {name: here[name] for name in VERSIONS})
        with build.precision(config):
            run(config)
        hosts.finish()
    except UserError as error:
        ended(" ".join(str(error).split()))
    except (RuntimeError, MemoryError) as error:
        if hosts.lost(error):
            ended(hosts.lost_line())
        if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
            raise
        ended(f"out of memory: {str(error).splitlines()[0] if str(error) else 'no memory left'}")
    except Interrupted as stop:
        ended(str(stop), stop.exit_code)
    except BrokenPipeError:
        os._exit(141)
    except OSError as error:
        if error.errno is None:
            raise
        place = error.filename
        if place is None and error.errno in OF_OUTPUT:  # nothing more goes there, at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            place = "output"
        ended(f"{place}: {error.strerror}" if place else str(error.strerror))


def refuse_idle(where: str, chosen: Options, idle: Mapping[str, str]) -> None:
    """Raises if an option was chosen that has no effect.

    Args:
      where: the script, for the error.
      chosen: the options that the user chose, without the settings of a trial run.
      idle: option to the reason why it has no effect, such as `with equal_time=False`; empty if it has one.
    """
    for name, reason in idle.items():
        default = type(chosen).options()[name].default
        value = chosen.chosen().get(name, default)
        if reason and value != default:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise fail(where, f"no {name} {reason}, where it has no effect", shown)


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as flags; those at None are left out."""
    return [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in options.items()
        if value is not None
    ]


def parsed(cls: type[C], doc: str, arguments: list[str]) -> C:
    """The options that were chosen on a command line; exits on `--help` and on flags that cannot be read."""
    shown = [flag for flag in arguments[1:] if flag in HELP]
    rest = [argument for argument in arguments if argument not in HELP]
    try:
        table = cls.options() | brought(cls, _members(cls, rest))
        config = _parsed(cls, table, rest)
    except UnicodeDecodeError as error:
        leave(f"flagfile: expected text in {error.encoding}, got byte {error.object[error.start]:#x}.")
    except (flags.Error, OSError) as error:
        leave(f"{' '.join(str(error).split()).rstrip('.')}. --help lists the flags.")
    except UserError as error:
        leave(" ".join(str(error).split()))
    if shown:
        whole = "--helpfull" in shown
        try:
            progress.say(_help(config, doc, whole=whole))
        except BrokenPipeError:  # a reader that stopped reading, such as `head`
            os._exit(0)
        except UserError as error:
            leave(" ".join(str(error).split()))
        sys.exit(0)
    return config


def _parsed(cls: type[C], table: Mapping[str, Option], arguments: list[str]) -> C:
    values = flags.FlagValues()
    for option in table.values():
        _define(values, option)
    try:
        rest = values(arguments)
    except flags.UnrecognizedFlagError as error:
        raise unknown("command line", "a flag", error.flagname, table, "--helpfull lists them.") from error
    if len(rest) > 1:
        raise UserError(f"command line: expected flags alone, got {rest[1]!r}. --help lists them.")
    return cls(**{name: values[name].value for name in table if values[name].present})


def _members(cls: type[Options], arguments: list[str]) -> dict[str, str]:
    """The members of registries that a command line names: they may bring flags of their own."""
    expanded = flags.FlagValues().read_flags_from_files(arguments[1:], force_gnu=True)
    found = {}
    for flag, following in zip(expanded, [*expanded, ""][1:], strict=True):
        name, equals, value = flag.lstrip("-").partition("=")
        if flag.startswith("-") and name in HEADS and name in cls.options():
            found[name] = value if equals else following
    return found


def leave(line: str, code: int = 1) -> NoReturn:
    """Ends the process with a line on standard error."""
    from jaxdistill.runtime import hosts

    hosts.settle(line)
    signals.end()
    hosts.leave(code)


def _show_warning(
    told: set[str], message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    """The library's own cautions as one line, once; others as Python shows them."""
    known = issubclass(category, Caution)
    text = f"note: {message}\n" if known else warnings.formatwarning(message, category, *where[:2])
    if not known or text not in told:
        print(text, end="", file=sys.stderr, flush=True)
    told.add(text)


def _define(values: flags.FlagValues, option: Option) -> None:
    if option.many:
        parser, serializer = _List(option.kind), flags.CsvListSerializer(",")
        flags.DEFINE(parser, option.name, None, option.help, serializer=serializer, flag_values=values)
    elif option.kind is bool:
        flags.DEFINE_boolean(option.name, None, option.help, flag_values=values)
    else:
        define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
        define[option.kind](option.name, None, option.help, flag_values=values)


class _List(flags.ArgumentParser):
    """Values separated by commas; an empty text gives an empty list."""

    def __init__(self, kind: Callable[[str], Any]):
        super().__init__()
        self.kind = kind

    def parse(self, argument: Any) -> list[Any]:
        if isinstance(argument, list):
            return argument
        return [self.kind(part.strip()) for part in argument.split(",") if part.strip()]

    def flag_type(self) -> str:
        return "comma separated list"


def _help(config: Options, doc: str, *, whole: bool) -> str:
    """The help text; it shows the values that options have beside the chosen ones."""
    cls = type(config)
    facts = facts_before_loading(config) if "dataset" in cls.options() else None
    values = defaults(config, facts)
    own = brought(cls, values)
    lines = [doc.strip(), ""]
    if whole:
        lines.append("All flags, in groups (--flagfile=FILE reads them from a preset):")
        groups = cls.groups() | ({OWN_TITLE: own} if own else {})
        for title, options in groups.items():
            lines += ["", f"{title}:"]
            lines += [line for option in options.values() for line in _lines(option, values)]
        return "\n".join(lines)
    lines += ["The flags that matter most, with their values; --helpfull shows all."]
    if "method" in values:
        recipe = recipe_of(METHODS[values["method"]])
        kind = "its settings for small images" if facts and facts.small else "its paper's settings"
        kind += "" if facts else ", or others for small images"
        source = f" ({recipe.paper}, {recipe.link})" if recipe.paper else ""
        lines += [f"{values['method']} is {recipe.title}{source}.", f"The defaults are {kind}."]
    table = cls.options()
    shown = [table[name] for name in _short(cls, values) if name in table and acts(table[name], values)]
    lines += [""]
    lines += [line for option in shown for line in _lines(option, values)]
    lines += [line for option in own.values() for line in _lines(option, values)]
    return "\n".join(lines)


def _short(cls: type[Options], values: Mapping[str, Any]) -> list[str]:
    """The options that the script declares, then the options of `SHORT` that have a value."""
    listed = {*Config.options(), *HostOptions.options()}
    own = [n for n in cls.options() if n not in listed or n in vars(cls).get("__annotations__", {})]
    valued = [name for name in SHORT if values.get(name) is not None]
    return list(dict.fromkeys([*own, *valued, *ALWAYS]))


def _lines(option: Option, values: Mapping[str, Any]) -> list[str]:
    value = values.get(option.name, option.default)
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))
    default = "" if text in (None, "") else f" [{text}]"
    known = f": {', '.join(option.names)}" if option.names else ""
    return [
        f"  --{'[no]' if option.kind is bool else ''}{option.name}{default}",
        *textwrap.wrap(option.help + known, width, initial_indent=INDENT, subsequent_indent=INDENT),
    ]
