"""results.zip and state.zip: what comes back from a machine, and what goes on to another one."""

import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.gpu_agenda.items import Item
from experiments.gpu_agenda.runner import State, of
from jaxdistill.core.checks import fail
from jaxdistill.runtime import progress
from jaxdistill.runtime.atomic import atomic_write


def archive(folder: Path, agenda: Sequence[Item], state: State, largest: int) -> None:
    """Writes results.zip and state.zip, and says how large they are.

    state.zip holds the runs that have begun, with their last checkpoint, and those that an unfinished item
    reads; one of more than `largest` bytes is left out, and says so.
    """
    results = sorted((folder / "results").glob("*"))
    read = {item.after for item in agenda if item.after and of(state, item) != "done"}
    kept = [i.name for i in agenda if of(state, i) in ("begun", "failed") or i.name in read]
    files = [*(folder / name for name in ("config.json", "state.json")), *results]
    for name in kept:
        needed = list(_needed(folder / "runs" / name))
        size = sum(file.stat().st_size for file in needed)
        if size <= largest:
            files += needed
        else:
            progress.say(
                f"note: state.zip is without {name}, {size / 2**20:.0f} MiB: archive_mib allows more"
            )
    for name, members in (("results.zip", results), ("state.zip", files)):
        packed = {str(file.relative_to(folder)): file for file in members if file.is_file()}
        atomic_write(folder / name, lambda out, packed=packed: _zip(out, packed))
        progress.say(
            f"{folder / name}: {len(packed)} files, {(folder / name).stat().st_size / 2**20:.1f} MiB"
        )


def _zip(out: Any, members: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, path in members.items():
            file.write(path, name)


def _needed(run: Path) -> Iterator[Path]:
    """The files that a run resumes from: of its checkpoints the last."""
    steps = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    for file in sorted(run.rglob("*")):
        part = file.relative_to(run).parts
        older = part[0] == "checkpoints" and part[1:2] != (str(max(steps, default=0)),)
        if file.is_file() and not older and file.name != "lock" and not file.name.endswith(".tmp"):
            yield file


def unpack(file: Path, folder: Path) -> None:
    """Unpacks state.zip into a new folder, as a whole or not at all.

    Raises:
      UserError: no such file, a damaged one or another archive; a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise fail("gpu_agenda", "a new run_dir with resume_from", f"{folder}, which holds something")
    if not file.is_file():
        raise fail("gpu_agenda", "resume_from, the state.zip of an agenda", f"{file}, where there is none")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as packed:
            packed.extractall(beside)
        if not (beside / "config.json").is_file():
            raise fail("gpu_agenda", "the state.zip of an agenda", f"{file} without config.json")
        if folder.exists():
            folder.rmdir()
        beside.replace(folder)
    # what zipfile raises on damage, on an unknown compression and on a password
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise fail("gpu_agenda", "an intact state.zip", f"{file} ({error})") from error
    except OSError as error:
        raise fail("gpu_agenda", f"a run_dir to write to at {folder}", error.strerror or error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
