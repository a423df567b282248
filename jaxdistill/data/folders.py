"""A folder of pictures as a data set: one folder per class, decoded once, then cached as arrays."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.paths import as_path
from jaxdistill.data.arrays import PARTS
from jaxdistill.data.cache import cached, key_of
from jaxdistill.data.dataset import Raw
from jaxdistill.data.decoding import alike, check_sizes, decoded
from jaxdistill.data.pictures import SUFFIXES
from jaxdistill.data.trees import Entry, Tree, tree

MOST_NAMED = 3
"""A message names this many files."""


class Labelled(NamedTuple):
    """A picture with its part and class."""

    entry: Entry
    part: str
    """`train`, `validation` or `test`."""
    label: str
    """The name of its class."""


def load_pictures(
    path: str | os.PathLike,
    cache_dir: Path,
    *,
    image_size: int | None = None,
    fit: str = "crop",
    skip_broken: bool = False,
) -> Raw:
    """A data set from a folder, `.zip` or `.tar` with one folder of pictures per class.

    Above the classes there may be `train`, `val` (or `validation`) and `test`. Folders below a class count as
    that class. Classes are sorted by name.

    Args:
      path: of the folder or archive.
      cache_dir: folder of the decoded arrays; they are found again by names, sizes and times of change of all
        files.
      image_size: side in pixels that pictures are resized to; needed if they differ in size.
      fit: how pictures that are no squares become squares, see `jaxdistill.data.pictures.decode`.
      skip_broken: leave files out that cannot be decoded.

    Returns:
      The raw set, named as the folder. If any picture has colours, all have; if all are grey, none has.

    Raises:
      UserError: no pictures, pictures beside the folders of classes, fewer than two classes, names that
        differ by case, broken files, pictures that differ in size, and what `trees.tree` refuses.
    """
    path = as_path("load", path)
    where = f"load({path.name or path})"
    files = tree(path, where)
    found = _labelled(files)
    settings = {"image_size": image_size, "fit": fit, "skip_broken": skip_broken, "suffixes": SUFFIXES}
    stem = path.resolve().name
    name = stem.split(".")[0] if path.is_file() else stem
    raw = cached(
        cache_dir / key_of(files.entries, **settings),
        lambda: _decoded(name, files, found, image_size, fit, skip_broken),
    )
    return raw._replace(name=name)  # the same pictures may have been read under another name


def _labelled(files: Tree) -> list[Labelled]:
    """The pictures of a tree with their parts and classes, sorted by part, class and path."""
    pictures = [(e, e.path.split("/")) for e in files.entries if _is_picture(e)]
    where = files.where
    if not pictures:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise fail(where, f"pictures ({kinds})", f"none among {len(files.entries)} files")
    depth = _above_classes({tuple(parts[:-1]) for _, parts in pictures})
    tops = {parts[depth] for _, parts in pictures if len(parts) > depth + 1}
    known = {name for name in tops if _part(name)}
    with_parts = "train" in {_part(name) for name in known} and known == tops
    if len(tops) == 1 and known == tops and not with_parts and all(len(p) > depth + 2 for _, p in pictures):
        raise fail(where, "a folder train", f"only {next(iter(tops))}")
    if known and known != tops and all(len(parts) > depth + 2 for _, parts in pictures):
        allowed = ", ".join("|".join(names) for names in PARTS.values())
        got = f"{sorted(tops - known)[0]} beside {sorted(known)[0]}"
        raise fail(where, f"folders of parts among {allowed}", got, "Rename or remove it.")
    found = []
    for entry, parts in pictures:
        folders = parts[depth:-1]
        if len(folders) < 1 + with_parts:
            expected = "a folder for each class, with its pictures in it"
            raise fail(where, expected, f"{entry.path} outside of them")
        part = _part(folders[0]) if with_parts else "train"
        found.append(Labelled(entry, str(part), folders[with_parts]))
    names = sorted({each.label for each in found})
    by_case: dict[str, str] = {}
    for name in names:
        other = by_case.setdefault(name.casefold(), name)
        if other != name:
            raise fail(where, "classes whose names differ by more than case", f"{other} and {name}")
    train = {each.label for each in found if each.part == "train"}
    if len(train) < 2:
        raise fail(where, "folders of at least two classes", f"only {', '.join(train)}")
    for part in PARTS:
        classes = {each.label for each in found if each.part == part}
        if classes and classes != train:
            one = sorted(classes ^ train)[0]
            got = f"{one} only in {part if one in classes else 'train'}"
            raise fail(where, f"the same classes in train and {part}", got)
    place = {part: number for number, part in enumerate(PARTS)}
    return sorted(found, key=lambda each: (place[each.part], each.label, each.entry.path))


def _is_picture(entry: Entry) -> bool:
    return entry.path.lower().endswith(SUFFIXES)


def _named(paths: Sequence[str]) -> str:
    """The first of some files."""
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(paths[:MOST_NAMED]) + more


def _above_classes(folders: set[tuple[str, ...]]) -> int:
    """The number of folders above the parts and classes that all pictures share."""
    depth = 0
    while all(len(each) > depth + 1 for each in folders):
        names = {each[depth] for each in folders}
        if len(names) > 1 or _part(next(iter(names))) is not None:
            break
        depth += 1
    return depth


def _above(folder: str) -> list[str]:
    """A folder, and those above it."""
    parts = folder.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _part(name: str) -> str | None:
    """The part of a set that a folder's name means."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


def _decoded(
    name: str, files: Tree, found: Sequence[Labelled], size: int | None, fit: str, skip_broken: bool
) -> Raw:
    """Decodes all pictures."""
    contents = files.read([each.entry for each in found])
    pictures = list(decoded(contents, len(found), size=size, fit=fit))
    pixels = [picture.pixels for picture in pictures]
    broken = [i for i, each in enumerate(pixels) if isinstance(each, str)]
    if broken and not skip_broken:
        first = "; ".join(f"{found[i].entry.path} ({pixels[i]})" for i in broken[:MOST_NAMED])
        more = f" and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
        remedy = "skip_broken leaves them out."
        raise fail(
            files.where, "pictures that can be decoded", f"{len(broken)} broken: {first}{more}", remedy
        )
    kept = [(label, image) for label, image in zip(found, pixels, strict=True) if not isinstance(image, str)]
    left_out = _named([found[i].entry.path for i in broken])
    cautions = [f"broken pictures that are left out, {len(broken)}: {left_out}"] if broken else []
    check_sizes([image for _, image in kept], [str(of.entry.path) for of, _ in kept], files.where)
    images, told = alike([image for _, image in kept])
    labels = [label for label, _ in kept]
    names = tuple(sorted({label.label for label in labels if label.part == "train"}))
    parts = [part for part in PARTS if any(label.part == part for label in labels)]
    x, y = {}, {}
    for part in parts:
        here = [i for i, label in enumerate(labels) if label.part == part]
        x[part] = np.stack([images[i] for i in here])
        y[part] = np.searchsorted(names, [labels[i].label for i in here]).astype(np.int64)
        gone = set(names) - {labels[i].label for i in here}
        if gone:
            raise fail(files.where, f"a picture of each class in {part}", f"none of {sorted(gone)[0]}")
    cautions += told + _alike_in_parts(x)
    empty = [str(folder) for folder in files.folders]
    others = [entry.path for entry in files.entries if not _is_picture(entry)]
    full = {entry.path.rpartition("/")[0] for entry in files.entries if _is_picture(entry)}
    within = {folder for each in full for folder in _above(each)}
    empty += sorted({path.rpartition("/")[0] for path in others} - {"", *within})
    cautions += [f"no picture in {', '.join(empty[:MOST_NAMED])}"] if empty else []
    verb = "files are no pictures" if len(others) > 1 else "file is no picture"
    cautions += [f"{len(others)} {verb} by name, and left out: {_named(others)}"] if others else []
    lines = sorted(
        f"{e.part}/{e.label}/{e.entry.path.rsplit('/', 1)[-1]} {picture.digest}"
        for e, picture in zip(found, pictures, strict=True)
    )
    digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    arrays = {("x" if part == "train" else f"x_{part}"): x[part] for part in parts}
    arrays |= {("y" if part == "train" else f"y_{part}"): y[part] for part in parts}
    white = float(np.iinfo(x["train"].dtype).max)
    return Raw(**arrays, name=name, class_names=names, scale=white, digest=digest, cautions=tuple(cautions))


def _alike_in_parts(x: dict[str, np.ndarray]) -> list[str]:
    """Cautions about images that are in two parts, or may be once a part is split off; copies no image."""

    def digest(image: np.ndarray) -> bytes:
        return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()

    train = {digest(image) for image in x["train"]}
    told = []
    if len(x) < len(PARTS) and (repeated := len(x["train"]) - len(train)):
        lacking = " and ".join(part for part in PARTS if part not in x)
        told.append(
            f"images that repeat others: {repeated}; {lacking}, split off, may have some that train has"
        )
    for part in [part for part in x if part != "train"]:
        count = sum(digest(image) in train for image in x[part])
        if count:
            told.append(f"{count} of {len(x[part])} {part} images stand in train, too")
    return told


def looks_like_a_path(name: str) -> bool:
    """Whether the name of a set looks like a folder or an archive, even if it does not exist."""
    return name.startswith((".", "/", "~")) or (name != "" and Path(name).is_dir())
