"""Reads images of a run or of a file for `evaluate`: the standardised images and their training."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxdistill.config.option import option, options
from jaxdistill.config.table import PLACES, Config, Places, ReadingOptions, StreamingOptions
from jaxdistill.core.checks import UserError, fail, lookup
from jaxdistill.core.paths import as_path
from jaxdistill.core.registry import options_of
from jaxdistill.core.types import Batch
from jaxdistill.data import DatasetInfo, Splits, standardise, to_pixels
from jaxdistill.data.registry import NORMALISATION
from jaxdistill.data.whitening import Whitening
from jaxdistill.evaluation import Protocol, as_distilled
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.populations import POPULATIONS
from jaxdistill.populations.source import source_of
from jaxdistill.runs.distill import content_of
from jaxdistill.runs.plan import splits
from jaxdistill.runs.protocols import ORDERS, other_shuffle, paper_protocol
from jaxdistill.runs.run import Run
from jaxdistill.runtime import progress
from jaxdistill.runtime.export import Synthetic, read_synthetic, synthetic
from jaxdistill.runtime.export_formats import METADATA, read_export
from jaxdistill.runtime.torch_files import SUFFIXES, read_torch

Images = Run | str | os.PathLike[str]
"""A run, or the path of an `.npz`, of a PyTorch file or of a folder that `jd.export` made."""
AUTHORS = NORMALISATION | {
    "cifar100": NORMALISATION["cifar10"],
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation per channel in the code of DC, DSA, DM, MTT and DATM, by set."""
MOST_NAMED = 3
"""A message names this many classes."""
OF_ANY_SET = ("image_size", "fit", "channels", "preprocess")
"""How images were read, where that holds for another set too."""
C = TypeVar("C", bound="TestedOnOptions")


@options
class TestedOnOptions(ReadingOptions, StreamingOptions):
    """Options of the real data; options that are not chosen are those in the file of the run."""

    title: ClassVar[str] = "data"
    dataset: str | None = option(None, "the real data to test on (default: the set that the file names)")
    fit: str | None = option(
        None,
        "how images that are no squares become squares, with image_size (default: as for the run)",
        known="jaxdistill.data.shaping:FITS",
    )
    skip_broken: bool | None = option(
        None, "leave out pictures of a folder that cannot be decoded (default: as for the run)"
    )
    preprocess: str | None = option(
        None,
        "standardise images per channel, or then whiten them too (default: as for the run)",
        known="jaxdistill.data.whitening:PREPROCESSINGS",
    )


def content(images: Images) -> Synthetic:
    """The images with their metadata; for a run, the content of its file of synthetic data.

    Raises:
      UserError: neither a run nor such a file.
    """
    if isinstance(images, Run):
        return synthetic(**content_of(images))
    expected = "images as a Run or the path of an .npz, a .pt or an exported folder"
    if not isinstance(images, str | os.PathLike):
        remedy = "numpy.savez(path, x=..., y=...) makes one of arrays."
        raise fail("evaluate", expected, type(images).__name__, remedy)
    folder = as_path("evaluate", images)
    if (folder / "config.json").is_file():
        remedy = f"Take {folder / 'synthetic.npz'}; in Python jd.load_run opens the folder."
        raise fail("evaluate", expected, f"the run folder {folder}", remedy)
    if (folder / METADATA).is_file():
        return read_export(folder)
    if folder.is_dir():
        raise fail("evaluate", expected, f"{images}, a folder without {METADATA}")
    return read_torch(folder) if folder.suffix in SUFFIXES else read_synthetic(folder)


def real_data(
    chosen: C, file: Synthetic, run: Run | None, data: Splits | str | os.PathLike[str] | None
) -> tuple[C, Splits]:
    """(the options with the name of the test networks' data set, that data set).

    Args:
      chosen: of the evaluation.
      file: the images.
      run: where they come from, if that is a run.
      data: the set that someone gives, or its path.

    Raises:
      UserError: no set, two of them, or one that cannot be loaded.
    """
    if data is not None and chosen.dataset is not None:
        raise fail("evaluate", "either data or dataset", "both")
    if isinstance(data, str | os.PathLike):
        chosen, data = chosen.replace(dataset=os.fspath(data)), None
    if data is not None and not isinstance(data, Splits):
        raise fail("evaluate", "data as jaxdistill.splits makes it, or a path", type(data).__name__)
    if data is None and run is not None and chosen.dataset is None:
        data = run.data
    if data is not None:
        for option_name, value in _reading(chosen).items():
            raise fail("evaluate", f"no {option_name} with images of a run or with data", value)
        return chosen.replace(dataset=data.info.name), data
    name = chosen.dataset or file.metadata.get("dataset")
    if not name:
        raise fail("evaluate", "dataset=NAME with a file that does not name its set", "nothing")
    height, width = file.pixels.shape[1:3]
    saved = file.metadata.get("reading", {})
    if "reading" not in file.metadata and file.order is not None and height == width:
        saved = {"image_size": height}  # of an older version: a run's own images tell the size
    if file.metadata.get("dataset", name) not in _names(
        name
    ):  # what was said of the file's set is not said of another
        saved = {n: v for n, v in saved.items() if n in OF_ANY_SET}
    reading = {n: v for n, v in saved.items() if v is not None} | _reading(chosen)
    places = {name: getattr(chosen, name) for name in (*Places.options(), *StreamingOptions.options())}
    try:
        data = splits(Config(dataset=name, **places, **reading))
    except UserError as error:
        if chosen.dataset is not None:
            raise
        remedy = (
            "The file names this set. If it is a folder or file of your own, give dataset=PATH; own arrays "
        )
        remedy += "are given from Python, with data=jd.splits(x, y)."
        raise UserError(f"{error} {remedy}") from error
    return chosen.replace(dataset=data.info.name, **reading), data


def _names(dataset: str) -> set[str]:
    """The names that a set may have in a file: its own name, or the name of its folder or file."""
    stem = Path(dataset).expanduser().resolve().name
    return {dataset, stem, stem.split(".")[0]}


def _reading(chosen: TestedOnOptions) -> dict[str, Any]:
    """The options of reading that were chosen, by name."""
    names = (name for name in ReadingOptions.options() if name not in PLACES)
    return {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}


def standardised(file: Synthetic, info: DatasetInfo) -> Batch:
    """The images of a file as networks see them, checked against the data set.

    Standardised ones are taken as they are, or from the authors' standardisation to ours, if they are
    whitened as the data set is, or neither is. Others are in the units that the file's `scale` says (white),
    in 0..1 where none lies outside of it, and otherwise in those of the data set.

    Raises:
      UserError: images of another shape, or of more classes; a file of the authors of a set they lack.
    """
    if file.pixels.shape[1:] != info.image_shape:
        got = "x".join(map(str, file.pixels.shape[1:]))
        raise fail("evaluate", f"images {'x'.join(map(str, info.image_shape))} as in {info.name}", got)
    if "standardised_by" in file.metadata:
        return Batch(jnp.asarray(_from_authors(file.pixels, info)), jnp.asarray(_classes(file, info)))
    pixels, scale = file.pixels, file.metadata.get("scale", info.scale)
    if "scale" not in file.metadata and pixels.min() >= 0 and pixels.max() <= 1 < info.scale:
        progress.say(f"note: images lie in 0..1; white is 1 in the file and {info.scale:g} in {info.name}")
        scale = 1.0
    x, own = file.images, {n: file.metadata[n] for n in ("mean", "std") if n in file.metadata}
    ours = {"mean": info.mean, "std": info.std}
    if x is not None and any(not np.allclose(value, ours[n], atol=1e-3) for n, value in own.items()):
        progress.say(f"note: the images were not standardised as {info.name}; they are standardised again")
        x = None
    if x is not None and not _whitened_alike(file.whitening, info.whitening):
        progress.say(
            f"note: the images were not whitened as {info.name}; they are whitened from their pixels"
        )
        x = None
    x = standardise(pixels * (info.scale / scale), info) if x is None else x
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(_classes(file, info)))


def _from_authors(x: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Images that the authors' statistics standardised, standardised by ours."""
    mean, std = lookup("evaluate: a PyTorch file of the set", info.name, AUTHORS)
    theirs = info._replace(mean=mean, std=std, whitening=None)
    return x if theirs == info else np.asarray(standardise(to_pixels(x, theirs), info))


def _classes(file: Synthetic, info: DatasetInfo) -> np.ndarray:
    """Labels [N, classes]; a user's file may lack the last classes, one of the authors all labels."""
    y = file.labels
    if y.shape[1] > info.num_classes:
        raise fail("evaluate", f"labels of {info.num_classes} classes as in {info.name}", y.shape[1])
    if y.shape[1] == 0:
        each, left = divmod(len(y), info.num_classes)
        if left:
            expected = f"labels with the images, or equally many images of each of {info.num_classes} classes"
            raise fail("evaluate", expected, f"{len(y)} images and no labels")
        return np.repeat(np.eye(info.num_classes, dtype=np.float32), each, axis=0)
    y = _by_name(y, [str(name) for name in file.metadata.get("class_names", ())], info)
    return np.pad(y, ((0, 0), (0, info.num_classes - y.shape[1])))


def _by_name(y: np.ndarray, names: Sequence[str], info: DatasetInfo) -> np.ndarray:
    """Labels [N, k] with the columns in the order that the set's classes have, by their names.

    Numbers are no names: then both sides have their classes in one order.
    """
    ours, numbers = list(info.class_names), all(name.isdecimal() for name in names)
    if len(names) != y.shape[1] or names == ours[: len(names)] or numbers or all(n.isdecimal() for n in ours):
        return y
    if other := [name for name in names if name not in ours]:
        expected = f"images of classes of {info.name} ({', '.join(ours[:MOST_NAMED])}, ...)"
        raise fail("evaluate", expected, f"of {other[0]}")
    progress.say(f"note: the classes of the images are put in the order of {info.name}, by name")
    found = np.zeros((len(y), info.num_classes), y.dtype)
    found[:, [ours.index(name) for name in names]] = y
    return found


def _whitened_alike(one: Whitening | None, other: Whitening | None) -> bool:
    return one is other or (one is not None and other is not None and one.agrees_with(other))


def protocols_for(
    file: Synthetic, names: Sequence[str], num_epochs: int | None, info: DatasetInfo
) -> dict[str, Protocol]:
    """The training protocols, by their names in the table.

    Of several batches `as_distilled` comes twice: with their order drawn at random, and not.

    Args:
      file: the images.
      names: of protocols; without any `dc`, and `as_distilled` where the steps are known, or else `frepo` for
        free labels.
      num_epochs: of the papers' protocols; their own when None.
      info: of the set that networks are tested on.

    Raises:
      UserError: `as_distilled` where the steps are not known; says what is missing.
    """
    lacks = _lacks(file)
    made = {}
    own = ("frepo",) if file.kind == "free" else ()
    for name in names or (*(own if lacks else ("as_distilled",)), "dc"):
        if name != "as_distilled":
            made[name] = paper_protocol(info, name, len(file.labels), num_epochs=num_epochs, labels=file.kind)
        elif lacks:
            expected = "order and step sizes with the images"
            raise fail("evaluate as_distilled", expected, lacks, "Use protocols=dc.")
        else:
            made |= _as_distilled(file)
    return made


def _lacks(file: Synthetic) -> str:
    """What is not known of the training that the images were distilled for; empty where all is."""
    if file.order is None:
        return "no order"
    if "learning_rate" not in file.hyperparameters:
        return "no step sizes"
    known = file.metadata.get("inner", {})
    return "" if {"inner_optimizer", "weight_decay"} <= known.keys() else "no inner optimiser"


def _as_distilled(file: Synthetic) -> dict[str, Protocol]:
    """The training that the images were distilled for, and with the batches shuffled, or not."""
    inner, order = file.metadata["inner"], file.order
    assert order is not None
    factory = lookup("evaluate inner_optimizer", inner["inner_optimizer"], INNER_OPTIMIZERS)
    for name in file.hyperparameters:
        if name not in options_of(factory):
            expected = f"hyper-parameters of {inner['inner_optimizer']}"
            raise fail("evaluate as_distilled", expected, f"hyper_{name} in the file", "Use protocols=dc.")
    optimizer = factory(num_steps=len(order), learned=(), **file.hyperparameters)
    shuffle = inner.get("shuffle", "none")
    shuffles = {"as_distilled": shuffle}
    if other := other_shuffle(order, shuffle):
        shuffles[ORDERS[other]] = other
    return {
        title: as_distilled(
            jnp.asarray(order),
            optimizer,
            optimizer.values(optimizer.init()),
            weight_decay=inner["weight_decay"],
            shuffle=shuffle,
            loss=inner.get("loss", "cross_entropy"),
            labels=file.kind,
            temperature=inner.get("temperature", 1.0),
        )
        for title, shuffle in shuffles.items()
    }


def tell_start(file: Synthetic) -> None:
    """Prints a note if images were distilled for other networks than fresh ones."""
    name = file.metadata.get("inner", {}).get("population", "fresh")
    source = source_of(POPULATIONS[name]) if name in POPULATIONS else None
    if source is not None and source.bank == "pool":
        progress.say("note: distilled for pre-trained networks; the tested ones start from random weights")
    elif file.fixed_start or (source is not None and source.only_one):
        progress.say(
            "note: distilled for one fixed initialisation; the tested networks start from random weights"
        )
