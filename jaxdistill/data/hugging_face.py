"""Data sets of Hugging Face `datasets` on disk: folders of `save_to_disk`, or parquet files.

Read with `pyarrow` alone.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.core.checks import Caution, fail, needs
from jaxdistill.core.paths import as_path
from jaxdistill.data.arrays import NAMES_OF_ARRAYS, PARTS, raw_of_arrays
from jaxdistill.data.cache import cached, key_of
from jaxdistill.data.dataset import Raw
from jaxdistill.data.decoding import alike, check_sizes, decoded, intact
from jaxdistill.data.trees import Entry

STATE, SPLITS = "state.json", "dataset_dict.json"
"""The file that `save_to_disk` writes beside the arrow files, and above the folders of several splits."""


def is_hugging_face(name: str | os.PathLike) -> bool:
    """Whether a name is a parquet file, or a folder with parquet files or with what `save_to_disk` writes."""
    path = as_path("load", name)
    if path.suffix == ".parquet":
        return True
    try:
        if not os.fspath(name) or not path.is_dir():
            return False
        return (path / SPLITS).is_file() or (path / STATE).is_file() or bool(_parquet(path))
    except PermissionError:
        return False  # who reads it as a folder of pictures says what cannot be read


def load_hugging_face(
    path: str | os.PathLike, cache_dir: Path, *, image_size: int | None = None, fit: str = "crop"
) -> Raw:
    """A data set from a `save_to_disk` folder, a parquet file, or a folder of parquet files.

    It needs one column of pictures, as bytes or as a struct with `bytes`, and one of class labels: text, or
    numbers, whose names the features may tell. Of several it takes the one called `label` or the like.

    The splits `train`, `validation` and `test` are read. A parquet file tells its split by its name,
    `train-00000-of-00001.parquet`, or by its folder's name. A single split or file is the training part.

    Args:
      path: of the folder or file.
      cache_dir: folder of the decoded arrays; they are found again by names, sizes and times of change of the
        files.
      image_size: side in pixels that pictures are resized to; needed if they differ in size.
      fit: how pictures that are no squares become squares, see `jaxdistill.data.pictures.decode`.

    Returns:
      The raw set. If any picture has colours, all have; if all are grey, none has.

    Raises:
      UserError: `pyarrow` is missing; files that are missing or damaged; no such columns, or several; rows
        without a picture or a label; broken pictures, or pictures that differ in size; labels that
        `jaxdistill.data.labels.numbered` refuses.
    """
    path = as_path("load", path)
    where = f"load({path.name})"
    parts = _files(path, where)
    entries = [Entry(f"{part}/{file}", *_state(file)) for part, files in parts.items() for file in files]
    folder = cache_dir / key_of(entries, image_size=image_size, fit=fit)
    return cached(folder, lambda: _decoded(path, where, parts, image_size, fit))


def _state(file: Path) -> tuple[int, float]:
    """Size and time of change; (0, 0) for a missing file, which reading reports."""
    about = file.stat() if file.is_file() else None
    return (0, 0.0) if about is None else (about.st_size, about.st_ctime)


def _decoded(path: Path, where: str, parts: dict[str, list[Path]], image_size: int | None, fit: str) -> Raw:
    """Decodes all pictures."""
    arrow = _pyarrow(where)
    tables = {part: _table(arrow, files, where) for part, files in parts.items()}
    image, label, names = _columns(tables["train"].schema, where)
    content: dict[str, np.ndarray] = {}
    for part, table in tables.items():
        for column in (image, label):
            if column not in table.column_names:
                raise fail(where, f"{column} in {part}", f"only {', '.join(table.column_names)}")
        if names and (there := _columns(table.schema, where)[2]) != names:
            expected = f"the class names of train in {part} ({', '.join(names[:3])}, ...)"
            raise fail(where, expected, ", ".join((there or ["none"])[:3]))
        if table[label].null_count:
            raise fail(where, f"a label in each row of {part}", f"{table[label].null_count} without {label}")
        ending = "" if part == "train" else f"_{part}"
        content[f"y{ending}"] = np.asarray(table[label].to_pylist())
    sources = [f"row {row} of {part}" for part, table in tables.items() for row in range(len(table))]
    rows = chain.from_iterable(_contents(table[image], f"{where} {part}") for part, table in tables.items())
    read = decoded(rows, len(sources), size=image_size, fit=fit)
    pictures = list(intact(read, sources, where))
    check_sizes(pictures, sources, where)
    pictures, told = alike(pictures)
    start = 0
    for part, table in tables.items():
        ending = "" if part == "train" else f"_{part}"
        content[f"x{ending}"] = np.stack(pictures[start : start + len(table)])
        start += len(table)
    if names:
        content["class_names"] = np.asarray(names, np.str_)
    raw = raw_of_arrays(content, path.stem, where)
    return raw._replace(cautions=(*told, *raw.cautions))


def _pyarrow(where: str) -> Any:
    needs(where, "pyarrow.parquet", "hf", "pyarrow")
    return needs(where, "pyarrow", "hf", "pyarrow")


def _parquet(folder: Path) -> list[Path]:
    return sorted((*folder.glob("*.parquet"), *folder.glob("*/*.parquet")))


def _files(path: Path, where: str) -> dict[str, list[Path]]:
    """The files of each part, training part first.

    Raises:
      UserError: nothing there, a damaged list of files, files of two configurations, no training part.
    """
    if path.is_file():
        return {"train": [path]}
    if not path.exists():
        raise fail(where, "a parquet file", f"nothing at {path}")
    if (path / STATE).is_file():
        return {"train": _of_state(path, where)}
    found: dict[str, list[Path]] = {}
    if (path / SPLITS).is_file():
        for split in _listed(path / SPLITS, "splits", where):
            part = _part(str(split))
            if part is None:
                line = f"{where}: the split {split} is not read, as it is none of {', '.join(PARTS)}"
                warnings.warn(line, Caution, stacklevel=4)
            else:
                found.setdefault(part, []).extend(_of_state(path / str(split), where))
    else:
        files = _parquet(path)
        parts = {file: _part(str(file.relative_to(path))) for file in files}
        if not any(parts.values()):
            parts = dict.fromkeys(files, "train")
        for file, part in parts.items():
            if part is None:
                raise fail(
                    where, "train, validation or test in the name of each file", file.relative_to(path)
                )
            found.setdefault(part, []).append(file)
        for part, several in found.items():
            folders = sorted({str(file.parent.relative_to(path)) for file in several})
            if len(folders) > 1:
                remedy = "Give one of them."
                raise fail(where, f"{part} files in one folder", f"{' and '.join(folders)}", remedy)
    if "train" not in found:
        raise fail(where, "a split named train", ", ".join(found) or "none")
    return {part: found[part] for part in PARTS if part in found}


def _part(name: str) -> str | None:
    """The part of a set that the name of a split or file means: `data/train-00000-of-00001.parquet`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for word in words for part, names in PARTS.items() if word in names), None)


def _of_state(folder: Path, where: str) -> list[Path]:
    """The arrow files of a split, in the order of its rows."""
    files = _listed(folder / STATE, "_data_files", where)
    try:
        return [folder / str(file["filename"]) for file in files]
    except (KeyError, TypeError) as error:
        raise _damaged(where, folder / STATE, "a filename in each of _data_files", error) from None


def _listed(path: Path, key: str, where: str) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(where, path, key, error) from None
    if not isinstance(found, list):
        raise _damaged(where, path, f"a list of {key}", found)
    return found


def _damaged(where: str, path: Path, what: str, got: Any) -> Exception:
    return fail(where, f"{path} with {what}", f"a damaged file ({got!r})", "Save the data set anew.")


def _table(arrow: Any, files: list[Path], where: str) -> Any:
    """The rows of all files."""
    tables = []
    for file in files:
        try:
            if file.suffix == ".parquet":
                tables.append(arrow.parquet.ParquetFile(file).read())
            else:
                tables.append(arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all())
        except (OSError, arrow.ArrowException) as error:
            got = f"a missing, damaged or different file ({' '.join(str(error).split())[:200]})"
            raise fail(where, f"an intact file {file}", got) from None
    for file, table in zip(files, tables, strict=True):
        if table.schema != tables[0].schema:
            raise fail(where, f"the columns of {files[0].name} in {file.name}", ", ".join(table.column_names))
    return arrow.concat_tables(tables)


def _columns(schema: Any, where: str) -> tuple[str, str, list[str]]:
    """The columns of pictures and of labels, and the names of the classes if the features have them."""
    features = _features(schema, where)
    kinds = {name: of.get("_type") for name, of in features.items()}
    images = [name for name in schema.names if kinds.get(name) == "Image"]
    images = images or [field.name for field in schema if "binary" in _storage(field.type)]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    labels = labels or [f.name for f in schema if re.match("u?int|(large_)?string$", str(f.type))]
    image = _one_of(images, "x", "pictures", schema.names, where)
    label = _one_of(labels, "y", "class labels", schema.names, where)
    names = features.get(label, {}).get("names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fail(where, f"names of {label} as text, in the features", names, "Save the data set anew.")
    return image, label, names


def _features(schema: Any, where: str) -> dict[str, Any]:
    """What the metadata of a table say of its columns; empty where they say nothing."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(text).get("info", {}).get("features") or {}
        return {name: of for name, of in found.items() if isinstance(of, dict)}
    except (ValueError, AttributeError):
        got = f"damaged ones ({text[:60]!r})"
        raise fail(where, "features in the metadata of its columns", got, "Save the data set anew.") from None


def _storage(kind: Any) -> str:
    """The type of the bytes of a picture."""
    names = [kind.field(i).name for i in range(kind.num_fields)]
    return str(kind.field("bytes").type if "bytes" in names else kind)


def _one_of(columns: list[str], kind: str, what: str, known: list[str], where: str) -> str:
    if len(columns) > 1:
        columns = [name for name in columns if name.lower() in NAMES_OF_ARRAYS[kind]] or columns
    if len(columns) != 1:
        got = f"{', '.join(columns)}" if columns else f"only {', '.join(known)}"
        raise fail(where, f"one column of {what}", got, "Remove the others." if columns else "")
    return columns[0]


def _contents(column: Any, where: str) -> Iterator[bytes]:
    """The bytes of each picture."""
    row = 0
    for chunk in column.chunks:
        for value in chunk:
            found = value.as_py()
            content = found.get("bytes") if isinstance(found, dict) else found
            if not isinstance(content, bytes):
                remedy = "Embed the files: Dataset.save_to_disk and push_to_hub do."
                raise fail(f"{where} row {row}", "the bytes of a picture", "none", remedy)
            yield content
            row += 1
