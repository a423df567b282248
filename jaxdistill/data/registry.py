"""`load(name)`: any data set, split and standardised, by one name."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chex
import numpy as np

from jaxdistill.core.checks import Caution, fail
from jaxdistill.core.paths import as_path
from jaxdistill.core.registry import Registry
from jaxdistill.core.sizes import parse_bytes
from jaxdistill.core.user_cache import user_cache
from jaxdistill.data.arrays import Reading, as_array, load_npz, raw_of_arrays
from jaxdistill.data.dataset import DatasetInfo, Raw, Splits, standardised, statistics, with_whitening
from jaxdistill.data.folders import load_pictures, looks_like_a_path
from jaxdistill.data.hugging_face import is_hugging_face, load_hugging_face
from jaxdistill.data.origin import Origin, remember
from jaxdistill.data.parts import Form, parts_of, shaped
from jaxdistill.data.streaming import HostImages
from jaxdistill.data.tfds_sets import Source, configured_names, known_to_tfds, load_prepared, prepared_folder
from jaxdistill.data.trees import is_archive

DATASETS: Registry[Callable[[Source], Raw]] = Registry(
    "dataset",
    {
        "digits": "jaxdistill.data.digits:load_digits",
        "mnist": "jaxdistill.data.idx_sets:load_idx",
        "fashion_mnist": "jaxdistill.data.idx_sets:load_idx",
        "kmnist": "jaxdistill.data.idx_sets:load_idx",
        "cifar10": "jaxdistill.data.cifar:load_cifar",
        "cifar100": "jaxdistill.data.cifar:load_cifar",
        "svhn_cropped": "jaxdistill.data.svhn:load_svhn",
        "tiny_imagenet": "jaxdistill.data.tiny_imagenet:load_tiny_imagenet",
        "usps": "jaxdistill.data.usps:load_usps",
    },
)
"""The named sets, one line each. `load` also takes any prepared TFDS set."""
BUNDLED = ("digits",)
"""Named sets that come with a package and have no files of their own."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""
NORMALISATION: dict[str, Normalisation] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Mean and standard deviation from the literature; other sets use their training part's."""

MIRRORS: dict[str, bool] = {
    "cifar10": True,
    "cifar100": True,
    "digits": False,
    "fashion_mnist": True,
    "kmnist": False,
    "mnist": False,
    "svhn_cropped": False,
    "tiny_imagenet": True,
    "usps": False,
}
"""Whether mirror images keep their class; not known for other sets."""


def load(
    name: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    data_memory: int | str | None = None,
    image_size: int | None = None,
    fit: str = "crop",
    channels: int | None = None,
    layout: str | None = None,
    scale: float | None = None,
    skip_broken: bool = False,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    preprocess: str = "standardise",
    seed: int = 0,
) -> Splits:
    """Loads a data set: train, validation and test part, on the device, standardised, sorted by class.

    Validation is a stratified part of the *training* set: 10,000 of MNIST's 60,000 by default. A set
    without a test part (`digits`, some `.npz`) first gives a stratified fifth of its images to `test`. Every
    part has an image of each class, so a class needs one image for each part.

    Args:
      name: `digits` (bundled with scikit-learn), the name of a TFDS image classification set (`mnist`,
        `emnist/balanced`, ...), a path that ends in `.npz` (see `load_npz` for what is in it), a folder,
        `.zip` or `.tar` with a folder of pictures per class (see `load_pictures`), or a folder or parquet
        file of Hugging Face `datasets` (see `load_hugging_face`). An `.npz` that says that it is a named set
        is standardised as that set.
      data_dir: folder of prepared TFDS sets; by default `jaxdistill/data` in the user's cache folder.
      manual_dir: folder with the original files of a set that is not prepared yet: `mnist`, `fashion_mnist`,
        `kmnist`, `cifar10`, `cifar100` and `svhn_cropped`, which are downloaded without it, `tiny_imagenet`
        and `usps`, which are not. Refused with a set that has no such files.
      data_memory: most bytes of training images on the device, as a number or as text such as `2GB`; those of
        a larger set stay on the disk, or on the host (a compressed `.npz`), and what outer steps draw is
        fetched ahead of them.
      image_size: side in pixels to resize to (square, antialiased bilinear); None keeps the size.
      fit: how images that are no squares become squares, with image_size: `crop`, `pad` or `stretch`.
      channels: 1 for grey images, 3 for colour; None keeps them as they are.
      layout: `nhwc` or `nchw`, of arrays in an `.npz`; None takes NHWC and refuses what looks like NCHW.
      scale: the pixel value of white in an `.npz`; None finds it.
      skip_broken: leave out pictures of a folder that cannot be decoded.
      validation_fraction: part of the training set that becomes `validation`, in (0, 1), rounded up; a sixth
        when None. Not for a set that has a validation part.
      test_fraction: part of a set without a test part that becomes `test`, likewise; a fifth when None.
      preprocess: `standardise`, per channel; or `zca`, which then whitens all values of an image together, by
        statistics of the training part (`jaxdistill.data.whitening`). Synthetic images are whitened images
        too, and augmentations act on whitened images, as in the papers.
      seed: of the splits, and of nothing else. Leave it: every run then has the same splits.

    Returns:
      The splits and what is known of the set.

    Raises:
      UserError: an unknown name, files that are missing or damaged, data that do not fit.

    Example:
      >>> load("digits").train.x.shape
      (1197, 8, 8, 1)
    """
    name = os.fspath(name)
    form = Form(image_size, fit, channels, validation_fraction, test_fraction, preprocess, seed)
    form.check("load")  # before any file is read
    limit = None if data_memory is None else parse_bytes(data_memory, "data_memory")
    folder = as_path("load data_dir", data_dir or default_data_dir())
    reading = Reading(layout, scale)
    raw = _raw(name, folder, manual_dir, form, reading, skip_broken, limit is not None)
    for line in raw.cautions:
        warnings.warn(f"load({raw.name}): {line}", Caution, stacklevel=2)
    named = raw.name if name.endswith(".npz") else name.partition(":")[0]  # without a version of TFDS
    found = _splits_of(raw, form, NORMALISATION.get(named), limit)
    if seed == 0:  # no other is an option of a run
        given = form._asdict() | reading._asdict() | {"skip_broken": skip_broken}
        usual = Form()._asdict() | Reading()._asdict() | {"skip_broken": False}
        remember(found, Origin(name, {n: value for n, value in given.items() if value != usual[n]}))
    return found


def splits(
    x: chex.Array,
    y: chex.Array,
    x_test: chex.Array | None = None,
    y_test: chex.Array | None = None,
    *,
    x_validation: chex.Array | None = None,
    y_validation: chex.Array | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    fit: str = "crop",
    channels: int | None = None,
    layout: str | None = None,
    scale: float | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    preprocess: str = "standardise",
    seed: int = 0,
    name: str = "arrays",
) -> Splits:
    """Arrays as a data set, ready to distill: split, standardised, on the device.

    Args:
      x: [N, H, W, C] or [N, H, W] images: integers or floats.
      y: [N] labels: numbers or strings; [N, classes] one-hot rows.
      x_test, y_test: the same for the test part; without them a stratified fifth of the images is split off.
      x_validation, y_validation: the same for the validation part; without them a sixth of the rest.
      class_names: a name per class; their numbers when None.
      image_size, fit, channels, layout, scale, validation_fraction, test_fraction, preprocess, seed: as for
        `load`.
      name: what tables call the set.

    Returns:
      The splits and what is known of the set.

    Raises:
      UserError: arrays of the wrong type, shape or length, NaN or infinite pixels.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
      >>> splits(x, np.arange(40) % 4).info.image_shape
      (8, 8, 1)
    """
    given = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
    given |= {"x_validation": x_validation, "y_validation": y_validation}
    where = f"splits({name})"
    content = {key: as_array(value, where, key) for key, value in given.items() if value is not None}
    if class_names is not None:
        content["class_names"] = np.asarray(class_names, np.str_)
    form = Form(image_size, fit, channels, validation_fraction, test_fraction, preprocess, seed)
    form.check(where)
    raw = raw_of_arrays(content, name, where, Reading(layout, scale))
    for line in raw.cautions:
        warnings.warn(f"{where}: {line}", Caution, stacklevel=2)
    return _splits_of(raw, form, None)


def _raw(
    name: str,
    folder: Path,
    manual_dir: str | os.PathLike | None,
    form: Form,
    reading: Reading,
    skip_broken: bool,
    mapped: bool,
) -> Raw:
    """The set by the loader of its kind; options without effect on that kind are refused."""
    if name not in DATASETS:
        from jaxdistill.data.original_names import check_no_original  # imports the loaders of all sets

        check_no_original(name)
    size: dict[str, Any] = {"image_size": form.image_size, "fit": form.fit}
    other = name in DATASETS or name.endswith(".npz")
    if not other and is_hugging_face(name):
        unused = {"skip_broken": skip_broken or None, **reading._asdict()}
        _check_unused(name, **unused, manual_dir=manual_dir)
        return load_hugging_face(name, folder / "pictures", **size)
    if is_archive(name) or (looks_like_a_path(name) and not other):
        _check_unused(name, **reading._asdict(), manual_dir=manual_dir)
        return load_pictures(name, folder / "pictures", **size, skip_broken=skip_broken)
    _check_unused(name, skip_broken=skip_broken or None)
    return _read(name, folder, manual_dir, form, reading, mapped)


def _splits_of(
    raw: Raw, form: Form, normalisation: Normalisation | None, data_memory: int | None = None
) -> Splits:
    """Splits, resizes and standardises the set of a loader."""
    if data_memory is not None:  # rows of it are then taken without a copy of the others
        raw = raw._replace(x=shaped(raw.x, form, raw.name))
    parts = parts_of(raw, form, data_memory)
    found = [part if isinstance(part, HostImages) else shaped(part, form, raw.name) for part, _ in parts]
    info = _info(raw, found[0], normalisation)
    if form.preprocess == "zca":
        info = with_whitening(info, np.asarray(found[0]))
    train, validation, test = (
        standardised(part, labels, info) for part, (_, labels) in zip(found, parts, strict=True)
    )
    return Splits(train, validation, test, info)


def _info(raw: Raw, x: np.ndarray | HostImages, normalisation: Normalisation | None) -> DatasetInfo:
    """The `DatasetInfo` of a set with these training images, without its whitening."""
    height, width, channels = x.shape[1:]
    info = DatasetInfo(
        name=raw.name,
        image_shape=(height, width, channels),
        num_classes=len(raw.class_names),
        class_names=raw.class_names,
        scale=raw.scale,
        mean=(),
        std=(),
        digest=raw.digest,
    )
    if normalisation is None or channels < len(normalisation[0]):
        normalisation = statistics(x, raw.scale)
    if len(normalisation[0]) not in (1, channels):
        raise fail(f"load({raw.name})", f"images of {len(normalisation[0])} channels", channels)
    mean, std = (value * channels if len(value) < channels else value for value in normalisation)
    return info._replace(mean=mean, std=std)


def _read(
    name: str,
    folder: Path,
    manual_dir: str | os.PathLike | None,
    form: Form,
    reading: Reading,
    mapped: bool,
) -> Raw:
    files = None if manual_dir is None else as_path("load manual_dir", manual_dir)
    if files is not None and not files.is_dir():
        remedy = "Leave it out if the set is already prepared."
        raise fail(f"load({name})", "manual_dir, a folder", f"{files}, which is not a folder", remedy)
    if name.endswith(".npz"):
        _check_unused(name, manual_dir=files)
        raw = load_npz(name, reading, mapped=mapped)
        if raw.name not in (Path(name).name, *DATASETS):
            expected = f"a name among {', '.join(sorted(DATASETS))}"
            raise fail(f"load({name})", expected, repr(raw.name), "Or leave the name out.")
        return raw
    _check_unused(name, **reading._asdict())
    own = name in DATASETS
    there = own or prepared_folder(folder, name) or configured_names(folder, name)
    if not (there or known_to_tfds(name)):
        kinds = "any prepared TFDS set, a folder of pictures, a .zip, .tar, .npz or .parquet"
        raise fail("load", f"one of {', '.join(sorted(DATASETS))}, {kinds}", repr(name))
    if name in BUNDLED or not own:
        _check_unused(name, manual_dir=files)
    source = Source(name, folder, files, form.image_size, form.fit)
    return DATASETS[name](source) if own else load_prepared(source)


def _check_unused(name: str, **options: Any) -> None:
    """Raises if an option was chosen that has no effect on that kind of set."""
    for option, value in options.items():
        if value is not None:
            raise fail(f"load({name})", f"no {option} with this kind of data set", value)


def default_data_dir() -> Path:
    """The folder of prepared sets: `jaxdistill/data` under XDG_CACHE_HOME, or under ~/.cache."""
    return user_cache() / "data"
