"""The command line of every experiment: flags from the table of options, one-line errors, exit codes."""

import os
import re
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from absl import flags, logging

from experiments.devices import HOSTS, OF_ONE
from experiments.options import BY_METHOD, Groups, Option
from jaxdistill.core.checks import Caution, UserError

HUGE_PAGES = "glibc.malloc.hugetlb=1"
INDENT = " " * 6
VERSIONS = ("jaxdistill", "jax", "jaxlib", "flax", "optax", "commit")
"""Of what all processes of a run have to have."""


def main(run: Callable[..., Any], groups: Groups, doc: str | None, argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs; exits with 1 on bad input (one line), with 128 + n on signal n.

    Args:
      run: `run(**config)`, the experiment.
      groups: its options, by what they choose.
      doc: the module's docstring, for `--help`.
      argv: the command line, `sys.argv` when None.

    A process of several ends with its last line, without waiting for the others (`jaxdistill.runtime.hosts`).
    """
    _use_huge_pages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    config = _parse(groups, doc or "", list(sys.argv if argv is None else argv))

    from jaxdistill.runtime import hosts

    logging.set_verbosity(logging.WARNING)
    warnings.showwarning = partial(_show_warning, set())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        _run(run, config)
    except Exception:  # a bug keeps its traceback
        if not hosts.joined():
            raise
        hosts.settle()
        traceback.print_exc()
        hosts.leave(1)


def _run(run: Callable[..., Any], config: dict[str, Any]) -> None:
    """Runs, in one process or several; errors become lines and exit codes."""
    from jaxdistill.runtime import hosts, profile
    from jaxdistill.runtime.compile_cache import enable_compile_cache
    from jaxdistill.runtime.loop import Interrupted

    try:
        several = hosts.start(**{name: value for name, value in config.items() if name in HOSTS})
        enable_compile_cache()
        if several:
            hosts.agree("flags", {name: value for name, value in config.items() if name not in OF_ONE})
            here = profile.environment()
            hosts.agree("versions", {name: here[name] for name in VERSIONS})
        run(**config)
        hosts.finish()
    except UserError as error:
        _exit(" ".join(str(error).split()))
    except (RuntimeError, MemoryError) as error:
        if hosts.lost(error):
            _exit(hosts.lost_line())
        if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
            raise
        _exit(f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}")
    except Interrupted as stop:
        _exit(str(stop), stop.exit_code)
    except BrokenPipeError:
        os._exit(141)


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """The flags that say the same as keyword arguments do; those at None are left out."""
    return [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
        if value is not None
    ]


def _parse(groups: Groups, doc: str, arguments: list[str]) -> dict[str, Any]:
    """The value of every option that was chosen; exits on `--help` and on flags that cannot be read."""
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(arguments[1:]):
        try:
            print(_help(groups, doc), flush=True)
        except BrokenPipeError:  # a reader that had enough, such as `head`
            os._exit(0)
        sys.exit(0)
    values = flags.FlagValues()
    for options in groups.values():
        for name, option in options.items():
            _define(values, name, option)
    try:
        rest = values(arguments)
    except (flags.Error, OSError) as error:
        _exit(f"{' '.join(str(error).split()).rstrip('.')}. --help lists the flags.")
    if len(rest) > 1:
        _exit(f"command line: expected flags alone, got {rest[1]!r}. --help lists them.")
    names = [name for options in groups.values() for name in options]
    return {name: values[name].value for name in names if values[name].present}


def _exit(line: str, code: int = 1) -> NoReturn:
    from jaxdistill.runtime import hosts

    hosts.settle(line)
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


def _stop(number: int, frame: Any) -> None:
    """Where the loop is not there to save first: while data load, or while networks are evaluated."""
    _exit(f"stopped by {signal.Signals(number).name}", 128 + number)


def _define(values: flags.FlagValues, name: str, option: Option) -> None:
    if option.many:
        parser, serializer = _List(option.kind), flags.CsvListSerializer(",")
        default = None if option.default is None else ",".join(map(str, option.default))
        flags.DEFINE(parser, name, default, option.help, serializer=serializer, flag_values=values)
    elif option.kind is bool:
        flags.DEFINE_boolean(name, option.default, option.help, flag_values=values)
    else:
        define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
        define[option.kind](name, option.default, option.help, flag_values=values)


class _List(flags.ArgumentParser):
    """Values separated by commas; nothing gives an empty list."""

    def __init__(self, kind: Callable[[str], Any]):
        super().__init__()
        self.kind = kind

    def parse(self, argument: Any) -> list[Any]:
        if isinstance(argument, list):
            return argument
        return [self.kind(part.strip()) for part in argument.split(",") if part.strip()]

    def flag_type(self) -> str:
        return "comma separated list"


def _help(groups: Groups, doc: str) -> str:
    lines = [doc.strip(), "", "Flags, by what they choose (--flagfile=FILE reads them from a preset):"]
    for title, options in groups.items():
        lines += ["", f"{title}:"]
        for name, option in options.items():
            shown = _shown(option.default)
            default = "" if shown in (None, "") else f" [{shown}]"
            lines.append(f"  --{'[no]' if option.kind is bool else ''}{name}{default}")
            known = f": {', '.join(option.known)}" if option.known else ""
            lines += textwrap.wrap(option.help + known, 96, initial_indent=INDENT, subsequent_indent=INDENT)
    if any("method" in options for options in groups.values()):
        lines += ["", "Defaults that a method brings:"]
        for method, own in BY_METHOD.items():
            text = ", ".join(f"{name}={_shown(value)}" for name, value in own.items())
            lines += textwrap.wrap(
                f"{method}: {text}", 96, initial_indent="  ", subsequent_indent=INDENT
            ) * bool(own)
    return "\n".join(lines)


def _shown(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _use_huge_pages() -> None:
    """Starts this process again with glibc's huge pages on (Linux, CPU; opt out: JAXDISTILL_HUGE_PAGES=0).

    Page faults of large temporaries cost up to half of a step on the CPU; the tunable is read at start only.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    wanted = os.environ.get("JAXDISTILL_HUGE_PAGES", "1") != "0"
    if not wanted or not sys.platform.startswith("linux") or re.search("malloc.hugetlb", tunables):
        return
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{tunables}:{HUGE_PAGES}".strip(":")}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
