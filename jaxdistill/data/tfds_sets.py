"""TensorFlow Datasets sets without TensorFlow: files are read once, then cached as arrays.

TFDS itself reads `array_record` files, and `grain` those of `tfrecord`. Both are imported only when a set is
read for the first time.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.core.checks import UserError, fail, needs
from jaxdistill.data.cache import VERSION, read_cache, write_cache
from jaxdistill.data.dataset import Raw
from jaxdistill.data.pictures import square

NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
NUMBERED = re.compile(r"\d+\.\d+\.\d+")
CHUNK = 4096


class Source(NamedTuple):
    """Where a named set comes from."""

    name: str
    data_dir: Path
    """Folder of prepared sets."""
    manual_dir: Path | None
    """Folder of original files; None: the network."""
    image_size: int | None
    """Side in pixels, for sets whose images differ in size."""
    fit: str = "crop"
    """How images of such a set that are no squares become squares, see `jaxdistill.data.shaping.fitted`."""


def import_tfds(where: str) -> Any:
    """The module `tensorflow_datasets`, without its progress bars.

    Raises:
      UserError: it is not installed, or lacks a part.
    """
    try:
        import array_record.python.array_record_module  # noqa: F401  (TFDS imports it late)
        import tensorflow_datasets as tfds
    except ImportError as error:
        remedy = (
            "Run: pip install tensorflow-datasets array_record importlib_resources. Or give an .npz file."
        )
        raise fail(where, "tensorflow_datasets (Linux)", f"an import error ({error})", remedy) from None
    tfds.disable_progress_bar()
    return tfds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS's log below the level of errors."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def known_to_tfds(name: str) -> bool:
    """Whether TFDS has code for a set of that name (False where TFDS is not installed)."""
    match = NAME.fullmatch(name)
    if match is None:
        return False
    try:
        tfds = import_tfds("load")
    except UserError:
        return False
    with quiet():
        return match["set"] in tfds.list_builders(with_community_datasets=False)


def prepared_folder(data_dir: Path, name: str) -> Path | None:
    """The folder of a prepared set, its newest version unless `name` says which; None if there is none.

    Args:
      data_dir: folder of prepared sets.
      name: `set`, `set/config`, either with `:1.2.3` behind it.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    base = data_dir / match["set"] / (match["config"] or "")
    versions = [p for p in base.glob(match["version"] or "*") if NUMBERED.fullmatch(p.name)]
    versions = [p for p in versions if (p / "dataset_info.json").is_file()]
    return max(versions, key=lambda p: tuple(map(int, p.name.split("."))), default=None)


def configured_names(data_dir: Path, name: str) -> list[str]:
    """The prepared configurations of a set, as `load` takes them: `set/config`."""
    if NAME.fullmatch(name) is None:
        return []
    folders = data_dir.glob(f"{name}/*/*/dataset_info.json")
    return sorted({f"{name}/{path.parents[1].name}" for path in folders})


def load_prepared(source: Source) -> Raw:
    """A set that is already prepared in `source.data_dir`.

    Raises:
      UserError: it is not there (says how to prepare it), has another file format, or does not consist
        of images with one label each.
    """
    folder = prepared_folder(source.data_dir, source.name)
    if folder is not None:
        return read_prepared(folder, source)
    where = f"load({source.name})"
    names = ", ".join(configured_names(source.data_dir, source.name))
    if names:
        raise fail(where, f"a set with its configuration, one of {names}", source.name)
    raise fail(where, f"a prepared set in {source.data_dir}", "none", _how_to_build(source))


def read_prepared(folder: Path, source: Source) -> Raw:
    """The set in `folder`: from the arrays cached there, or else from TFDS's files, caching the arrays.

    Raises:
      UserError: as `load_prepared`.
    """
    sized = f"{VERSION}-{source.image_size}-{source.fit}"  # of sets whose images differ in size
    for cache in (folder / VERSION, folder / sized):
        raw = read_cache(cache)
        if raw is not None:
            return raw
    try:
        raw, resized = _read_records(folder, source)
    except (UserError, ImportError):
        raise
    except Exception as error:  # TFDS, protobuf and array_record raise anything on damaged files
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        remedy = "Remove the folder, and prepare the set again."
        raise fail(f"load({source.name})", f"an intact set in {folder}", got, remedy) from None
    cache = folder / (sized if resized else VERSION)
    write_cache(cache, raw)
    return read_cache(cache) or raw


def _how_to_build(source: Source) -> str:
    command = f"tfds build {source.name} --file_format=array_record --data_dir={source.data_dir}"
    return f"Preparing it needs TensorFlow, once: pip install tensorflow, then {command}"


def _read_records(folder: Path, source: Source) -> tuple[Raw, bool]:
    where = f"load({source.name})"
    tfds = import_tfds(where)
    with quiet():
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        image_key, label_key = info.supervised_keys or ("image", "label")
        features: dict[str, Any] = dict(info.features)
        image: Any = features.get(image_key)
        label: Any = features.get(label_key)
        if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
            got = f"features {', '.join(sorted(features))}"
            raise fail(where, "a set of images with one class label each", got)
        size = None
        if None in image.shape:
            size = source.image_size
            if size is None:
                raise fail(
                    where, "image_size, as its images differ in size", "None", "Pass image_size, say 64."
                )
        test = next((name for name in ("test", "validation") if name in info.splits), None)
        parts = {}
        for split in filter(None, ("train", test)):
            if split not in info.splits:
                raise fail(where, "a split named train", ", ".join(info.splits) or "none")
            try:
                examples = _examples(builder, split, where)
            except NotImplementedError:
                got = f"another file format in {folder}"
                remedy = "Remove it. " + _how_to_build(source)
                raise fail(where, "array_record or tfrecord files", got, remedy) from None
            parts[split] = _read_split(examples, image_key, label_key, size, source.fit)
    x, y = parts["train"]
    x_test, y_test = parts[test] if test else (None, None)
    scale = float(np.iinfo(x.dtype).max) if np.issubdtype(x.dtype, np.integer) else 1.0
    if np.issubdtype(image.np_dtype, np.integer):
        scale = float(np.iinfo(image.np_dtype).max)
    name = source.name.partition(":")[0]
    return Raw(name, x, y, tuple(label.names), scale, x_test, y_test), size is not None


def _examples(builder: Any, split: str, where: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in TFDS's own order, which is stable.

    Raises:
      NotImplementedError: by TFDS, for a format that it needs TensorFlow for; the caller makes it one line.
      UserError: tfrecord files, and `grain` is missing.
    """
    if builder.info.file_format.value == "tfrecord":
        grain = needs(where, "grain.experimental", "grain", "grain, which reads tfrecord files")
        return _of_tfrecords(builder.info, split, grain)
    records = builder.as_data_source(split)
    starts = range(0, len(records), CHUNK)
    chunks = (records.__getitems__(list(range(i, min(i + CHUNK, len(records))))) for i in starts)
    return (example for chunk in chunks for example in chunk)


def _of_tfrecords(info: Any, split: str, grain: Any) -> Iterator[dict[str, Any]]:
    """The examples in the tfrecord files of a split, shard by shard."""
    count = 0
    for path in info.splits[split].filepaths:
        for record in grain.TFRecordIterDataset(str(path)):
            yield info.features.deserialize_example_np(record)
            count += 1
    if count != info.splits[split].num_examples:
        raise ValueError(f"{count} of {info.splits[split].num_examples} examples in {split}")


def _read_split(
    examples: Iterator[dict[str, Any]], image_key: str, label_key: str, size: int | None, fit: str
) -> tuple[np.ndarray, np.ndarray]:
    """[N, H, W, C] and [N]."""
    images, labels = [], []
    for example in examples:
        image = example[image_key]
        images.append(image if size is None else _resize_one(image, size, fit))
        labels.append(example[label_key])
    return np.stack(images), np.asarray(labels, np.int64)


def _resize_one(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    from PIL import Image

    channels = [square(Image.fromarray(image[..., c]), size, fit) for c in range(image.shape[-1])]
    return np.rint(np.stack(channels, axis=-1)).astype(image.dtype)
