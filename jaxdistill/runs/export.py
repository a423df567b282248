"""Exports images of a run: for PyTorch, as a folder of PNGs, as a Hugging Face data set, as `.npz`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.config import build
from jaxdistill.core.checks import fail, one_of
from jaxdistill.core.paths import as_path
from jaxdistill.data import read_npz
from jaxdistill.runs.distill import content_of, latents_of
from jaxdistill.runs.networks import only_network
from jaxdistill.runs.run import Run
from jaxdistill.runtime import export_formats as formats
from jaxdistill.runtime import progress as shown
from jaxdistill.runtime.atomic import atomic_folder, atomic_write
from jaxdistill.runtime.export import Synthetic, arrays_of, checked
from jaxdistill.runtime.latents import write_latents
from jaxdistill.runtime.torch_files import SUFFIXES, require_torch, write_torch
from jaxdistill.runtime.training_code import from_torch_file, training_code

FILES = {"latents": (".npz",), "npz": (".npz",), "torch": SUFFIXES}
"""The formats that are one file: how its name ends."""
FOLDERS = ("folder", "hf")
FORMATS = (*FOLDERS, *FILES)
NEEDED = ("x_standardised", "scale", "mean", "std", "class_names", "dataset")
"""The fields that a file needs for an export; files of runs have them."""


class ToExport(NamedTuple):
    """The content to export."""

    arrays: dict[str, np.ndarray]
    """The arrays of `synthetic.npz`."""
    file: Synthetic
    scores: dict[str, Any] | None
    """`result.json` of the run, if it is there."""


def export(
    images: Run | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to: str = "torch",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the images of a run in a format for other programs.

    | `to` | what is written |
    | --- | --- |
    | `torch` | a `.pt` of tensors for `torch.load(weights_only=True)`; `write_torch` lists them |
    | `folder` | a PNG per image in a folder per class, and `distillation.json`: labels, order, step sizes |
    | `hf` | a data set for `datasets.load_dataset` and the Hub, with a card that says how to train on it |
    | `latents` | what is stored in the place of images, and code with which NumPy decodes it, see
      `jaxdistill.runtime.latents` |
    | `npz` | all of `synthetic.npz`, with `x` as uint8, white at 255 |

    PNGs and uint8 are rounded and clipped to the range from black to white, which learned images often
    leave; the files say how much is lost. `torch`, `hf` and `npz` hold the exact images too.

    Args:
      images: a run, its folder, or the path of its `synthetic.npz`.
      path: the file or folder to make.
      to: the format, a member of `FORMATS`; `torch` and `hf` need the extras of these names.
      overwrite: whether an earlier export at `path` is replaced.
      progress: whether to say what was written, and for `torch` the code that trains on it.

    Returns:
      The path.

    Raises:
      UserError: images that are no run's, a path that is taken or does not fit the format, a missing package;
        whitened images to `folder` or `hf`, which do not hold the whitening.

    Example:
      >>> run = jd.distill(dataset="digits", num_outer_steps=2, progress=False)
      >>> sorted(p.name for p in jd.export(run, "digits", to="folder", progress=False).iterdir())
      ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'distillation.json']
    """
    one_of("export to", to, FORMATS)
    path = as_path("export", path)
    _check_place(path, to, overwrite)
    if to == "torch":
        require_torch("export torch")
    if to == "hf":
        formats.require_pyarrow("export hf")
    if to == "latents":
        latents = _latents(images)
        write_latents(path, latents)
        with shown.silent(not progress):
            _say_written(len(latents["classes"]), str(latents["dataset"]), path)
        return path
    source = _source(images)
    channels = source.file.pixels.shape[-1]
    if to in FOLDERS and channels not in (1, 3):
        remedy = "to=torch and to=npz take any number."
        raise fail(f"export {to}", "images of 1 or 3 channels", channels, remedy)
    if to in FOLDERS and source.file.whitening is not None:
        remedy = "to=torch and to=npz hold the whitening."
        raise fail(f"export {to}", "images of preprocess=standardise", "whitened images", remedy)
    if to == "torch":
        atomic_write(path, lambda file: write_torch(file, source.arrays))
    elif to == "npz":
        atomic_write(path, lambda file: formats.write_npz(file, source.file, source.arrays))
    else:
        write: dict[str, Callable[[Path], None]] = {
            "folder": lambda folder: formats.write_folder(folder, source.file),
            "hf": lambda folder: formats.write_hf(folder, source.file, path.name, source.scores),
        }
        atomic_folder(path, write[to])
    with shown.silent(not progress):
        _say(source.file, path, to)
    return path


def _latents(images: Run | str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a run's latents, or those in its folder."""
    if isinstance(images, Run):
        return latents_of(images)
    if not isinstance(images, str | os.PathLike):
        raise fail("export", "images as a Run, its folder or its latents.npz", type(images).__name__)
    path = as_path("export", images)
    if path.is_dir() and (path / "synthetic.npz").exists() and not (path / "latents.npz").exists():
        got = "images that are stored as they are"
        raise fail("export latents", f"latents.npz in {path.name}", got, "Take to=npz or to=torch.")
    path = path / "latents.npz" if path.is_dir() else path
    arrays = read_npz(path, f"export({Path(*path.parts[-2:])})")
    if "code" not in arrays:
        raise fail("export latents", "a run, its folder or its latents.npz", path)
    return arrays


def _check_place(path: Path, to: str, overwrite: bool) -> None:
    """Raises if the output may not be written there."""
    where = f"export {to}"
    if to in FILES and path.suffix not in FILES[to]:
        raise fail(where, f"a path that ends in {' or '.join(FILES[to])}", path)
    if not path.exists():
        return
    if not overwrite:
        raise fail(where, "a path that does not exist yet", path, "Choose another path, or set overwrite.")
    if path.is_dir() != (to in FOLDERS):
        raise fail(where, f"a {'folder' if to in FOLDERS else 'file'} to overwrite", path)
    if path.is_dir() and not (path / formats.METADATA).is_file():
        raise fail(where, "a folder of an earlier export, to overwrite", path, "Remove it yourself.")
    if path.is_file() and not formats.is_export(path):
        raise fail(where, "a file of an earlier export, to overwrite", path, "Remove it yourself.")


def _source(images: Run | str | os.PathLike[str]) -> ToExport:
    """The arrays of a run or a file, checked."""
    if isinstance(images, Run):
        content = content_of(images)
        if build.source(images.config).only_one:
            content["start"] = only_network(images.config, images.state, images.bank)
        arrays = arrays_of("export", content)
        return ToExport(arrays, checked("export", arrays), _scores(images.path))
    if not isinstance(images, str | os.PathLike):
        raise fail("export", "images as a Run, its folder or its synthetic.npz", type(images).__name__)
    path = as_path("export", images)
    if path.is_dir():
        if not (path / "synthetic.npz").is_file():
            raise fail("export", "a folder of a finished run, with synthetic.npz", path)
        path = path / "synthetic.npz"
    where = f"export({Path(*path.parts[-2:])})"
    arrays = read_npz(path, where)
    file = checked(where, arrays)
    if lacking := [name for name in NEEDED if name not in arrays]:
        raise fail(where, "the synthetic.npz of a run", f"a file without {', '.join(lacking)}")
    count = len(file.metadata["class_names"])
    if file.labels.shape[1] != count:
        raise fail(where, f"labels of {count} classes, as class_names", file.labels.shape[1])
    return ToExport(arrays, file, _scores(path.parent if path.name == "synthetic.npz" else None))


def _scores(folder: Path | None) -> dict[str, Any] | None:
    """The result of a run, of a folder that has one."""
    if folder is None or not (folder / "config.json").is_file() or not (folder / "result.json").is_file():
        return None
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail("export", f"a readable {folder / 'result.json'}", error) from error


def _say_written(count: int, dataset: str, path: Path) -> None:
    shown.say(f"{count} images of {dataset}: {path}")


def _say(file: Synthetic, path: Path, to: str) -> None:
    """Prints what was written, and notes about it."""
    _say_written(len(file.labels), file.metadata["dataset"], path)
    if to != "torch":
        shown.say(f"note: pictures are rounded to 8 bits, {formats.pictures(file).clipped}")
    if to == "folder":
        absent = np.flatnonzero(np.bincount(file.labels.argmax(axis=1), minlength=file.labels.shape[1]) == 0)
        if absent.size:
            name = file.metadata["class_names"][absent[0]]
            shown.say(f"note: no image is of class {name}; folder readers number the later classes one lower")
    if file.fixed_start:
        shown.say("note: distilled for one fixed initialisation; networks that start elsewhere learn less")
    if to == "torch":
        first = from_torch_file(str(path), whitened=file.whitening is not None, kind=file.kind)
        shown.say(f"\n{training_code(file, first)}")
