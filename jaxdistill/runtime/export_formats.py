"""Synthetic data for other programs: an `.npz` of pictures, a folder of PNGs, a Hugging Face data set.

Pictures have 8 bits: pixels are rounded, and clipped to the range from black to white, which learned images
often leave. The exact images stand beside them where a format has room for it.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from jaxdistill.core.checks import UserError, fail, needs
from jaxdistill.runtime.atomic import jsonable
from jaxdistill.runtime.export import LABEL_ARRAYS, Synthetic, checked, write_arrays
from jaxdistill.runtime.torch_files import OURS
from jaxdistill.runtime.training_code import LABEL_NAMES, from_hf_folder, training_code

METADATA = "distillation.json"
"""The file of an exported folder with the data that pictures lack. Only a folder with it is replaced."""
HOW = ("dataset", "method", "learner", "inner", "reading", "class_names", "mean", "std")
"""The metadata of a file that this file holds too."""
CARD = """---
# license: fill it in; the images were learned from {dataset}, whose licence applies to them too
task_categories:
- image-classification
tags:
- dataset-distillation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
{names}
  - name: {labels}
    sequence: float32
  - name: standardised
    sequence:
      sequence:
        sequence: float32
---

# {dataset}, distilled into {count} images

Images to train networks on in place of the training set of {dataset}. They were learned by `{method}` for
the network `{learner}`, with jaxdistill.
{accuracy}
`image` is for people, in 8 bits: {clipped}. Networks train on `standardised`,
[H, W, C] floats, with `{labels}`. `{metadata}` has the order of the batches and the step sizes.
Standardised is (pixels / white - mean) / std with mean {mean} and std {std}; white is 255 in 8 bits.

## Training on them

```python
{code}
```

## Licence

To be filled in by who publishes this. The images were learned from {dataset}: see what its licence asks of
works that are made from it.
"""


class Pictures(NamedTuple):
    """Images in 8 bits."""

    x: np.ndarray
    """[N, H, W, C] uint8."""
    clipped: str
    """How many pixels lay outside of the range, in words."""


def pictures(file: Synthetic) -> Pictures:
    """The images of a file with a `scale`, rounded and clipped to 8 bits."""
    x = file.pixels * (255 / file.metadata["scale"])
    outside = int(((x < -0.5) | (x >= 255.5)).sum())
    return Pictures(
        np.clip(np.rint(x), 0, 255).astype(np.uint8),
        f"{outside:,} of {x.size:,} values clipped to the range from black to white",
    )


def write_npz(opened: BinaryIO, file: Synthetic, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes all arrays of `synthetic.npz`, with `x` as uint8 and white as 255, as most programs expect."""
    write_arrays(opened, {**arrays, "x": pictures(file).x, "scale": np.float32(255)})


def is_export(path: Path) -> bool:
    """Whether a file is an export: images or latents as `.npz`, or a `.pt`; a run's own files are none."""
    if (path.parent / "config.json").is_file() and path.name in ("synthetic.npz", "latents.npz"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            pickled = [name for name in names if name.endswith("data.pkl")]
            ours = any(OURS.encode() in archive.read(name) for name in pickled)
    except (OSError, zipfile.BadZipFile):
        return False
    return ours or {"x.npy", "order.npy", "method.npy"} <= names or {"code.npy", "decoder.npy"} <= names


def write_folder(folder: Path, file: Synthetic) -> None:
    """Writes a PNG per image in a folder per class; readers of picture folders number the classes alike."""
    names = class_folders(file.metadata["class_names"])
    classes, shown = file.labels.argmax(axis=1), pictures(file)
    images = []
    for row, (c, x, soft) in enumerate(zip(classes.tolist(), shown.x, file.labels.tolist(), strict=True)):
        place, content = f"{names[c]}/{row:05d}.png", _png(x)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        images.append({"file": place, "sha256": digest, "label": c, LABEL_NAMES[file.kind]: soft})
    _write_metadata(folder, file, {"pictures": f"rounded to 8 bits; {shown.clipped}", "images": images})


def write_hf(folder: Path, file: Synthetic, name: str, scores: Mapping[str, Any] | None) -> None:
    """Writes a folder that `datasets.load_dataset` and the Hub read: Parquet and a card.

    Args:
      folder: to write into.
      file: the images.
      name: what the code on the card calls the folder.
      scores: `result.json` of the run, for the card.

    Raises:
      UserError: pyarrow is not installed.
    """
    pyarrow, parquet = require_pyarrow("export hf")
    shown = pictures(file)
    classes = file.labels.argmax(axis=1)
    images = [{"bytes": _png(x), "path": f"{row:05d}.png"} for row, x in enumerate(shown.x)]
    floats = pyarrow.list_(pyarrow.float32())
    columns = {
        "image": pyarrow.array(images),
        "label": pyarrow.array(classes.astype(np.int64)),
        LABEL_NAMES[file.kind]: pyarrow.array(file.labels.tolist(), floats),
        "standardised": pyarrow.array(_standardised(file).tolist(), pyarrow.list_(pyarrow.list_(floats))),
    }
    (folder / "data").mkdir()
    parquet.write_table(pyarrow.table(columns), folder / "data" / "train-00000-of-00001.parquet")
    _write_metadata(folder, file, {})
    (folder / "README.md").write_text(_card(file, shown, name, scores), encoding="utf-8")


def read_export(folder: Path) -> Synthetic:
    """Reads a folder that `write_folder` or `write_hf` made; the result is as from `read_synthetic`.

    Pictures have 8 bits; a Hugging Face data set has the exact standardised images beside them.

    Raises:
      UserError: files that are missing, damaged or do not fit together.
    """
    where = f"read_export({folder.name})"
    try:
        told = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        steps, white = dict(told["steps"]), told["white"]
        pictured = "images" in told
        arrays = _arrays_of_pictures(folder, told, where) if pictured else _arrays_of_rows(folder, where)
        arrays |= {name: np.asarray(told[name]) for name in ("class_names", "mean", "std") if name in told}
        texts = {name: told[name] for name in HOW if name in told and name not in arrays}
        arrays |= {n: np.asarray(t if isinstance(t, str) else json.dumps(t)) for n, t in texts.items()}
        arrays |= {
            n if n == "order" else f"hyper_{n}": np.asarray(v) for n, v in steps.items() if v is not None
        }
        return checked(where, arrays | {"scale": np.asarray(white)})
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        remedy = "Export the images anew."
        raise fail(where, f"what jd.export writes, with {METADATA}", f"{error!r}", remedy) from None


def _arrays_of_pictures(folder: Path, told: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """Images and labels of `write_folder`; an older version wrote no digests."""
    pixels = []
    for image in told["images"]:
        expected, remedy = f"the picture {image['file']} as it was exported", "Export the images anew."
        try:
            content = (folder / image["file"]).read_bytes()
        except OSError as error:
            raise fail(where, expected, error.strerror or error, remedy) from None
        if image.get("sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
            raise fail(where, expected, "another one", remedy)
        with Image.open(io.BytesIO(content)) as picture:
            pixels.append(np.asarray(picture))
    return {"x": np.stack(pixels)} | _labels(told["images"])


def _arrays_of_rows(folder: Path, where: str) -> dict[str, np.ndarray]:
    """Images and labels of `write_hf`."""
    pyarrow, parquet = require_pyarrow(where)
    try:
        rows = parquet.read_table(folder / "data").to_pylist()
    except pyarrow.ArrowException as error:
        raise fail(
            where, f"intact Parquet files in {folder / 'data'}", " ".join(str(error).split())[:80]
        ) from None
    pixels = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    exact = np.asarray([row["standardised"] for row in rows], np.float32)
    return {"x": np.stack(pixels), "x_standardised": exact} | _labels(rows)


def _labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    kind = next(kind for kind, name in LABEL_NAMES.items() if name in rows[0])
    found = {"y": np.asarray([row["label"] for row in rows])}
    return found | {LABEL_ARRAYS[kind]: np.asarray([row[LABEL_NAMES[kind]] for row in rows], np.float32)}


def require_pyarrow(where: str) -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
      UserError: it is not installed.
    """
    what = "pyarrow, for Parquet files"
    return needs(where, "pyarrow", "hf", what), needs(where, "pyarrow.parquet", "hf", what)


def class_folders(class_names: Sequence[str]) -> list[str]:
    """A folder's name for each class; sorted by name they are in the order of the classes.

    Args:
      class_names: of all classes.

    Returns:
      The names themselves, with `_` for what a path does not take; with the number in front where they would
      sort in another order, or two would be one.

    Example:
      >>> class_folders(["cat", "dog"]), class_folders(["dog", "cat/kitten"])
      (['cat', 'dog'], ['0_dog', '1_cat_kitten'])
    """
    names = [re.sub(r"[^\w-]+", "_", name) for name in class_names]
    distinct = len({name.casefold() for name in names}) == len(names)
    if all(names) and names == sorted(names) and distinct:
        return names
    digits = len(str(len(names) - 1))
    return [f"{number:0{digits}d}_{name}" for number, name in enumerate(names)]


def _standardised(file: Synthetic) -> np.ndarray:
    assert file.images is not None  # a file without them is not exported
    return file.images


def _png(x: np.ndarray) -> bytes:
    """[H, W, 1 or 3] uint8 as a PNG."""
    out = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(out, format="PNG")
    return out.getvalue()


def _write_metadata(folder: Path, file: Synthetic, more: Mapping[str, Any]) -> None:
    """Writes the data that pictures do not hold."""
    steps = {} if file.order is None else {"order": file.order}
    steps |= file.hyperparameters
    how = {name: file.metadata[name] for name in HOW if name in file.metadata}
    content = {"format": "jaxdistill export", "white": 255, **how, "steps": steps, **more}
    lines = [
        f'  "{name}": {json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)}'
        for name, value in content.items()
    ]
    (folder / METADATA).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _card(file: Synthetic, shown: Pictures, name: str, scores: Mapping[str, Any] | None) -> str:
    known = file.metadata
    code = training_code(file, from_hf_folder(name, METADATA, file.kind))
    names = [
        f"          '{number}': {json.dumps(each, ensure_ascii=False)}"
        for number, each in enumerate(known["class_names"])
    ]
    return CARD.format(
        dataset=known["dataset"],
        names="\n".join(names),
        labels=LABEL_NAMES[file.kind],
        count=len(file.labels),
        method=known.get("method", "an unknown method"),
        learner=known.get("learner", {}).get("learner", "unknown"),
        accuracy=_accuracy(scores),
        clipped=shown.clipped,
        metadata=METADATA,
        mean=[round(value, 4) for value in known["mean"]],
        std=[round(value, 4) for value in known["std"]],
        code=code,
    )


def _accuracy(scores: Mapping[str, Any] | None) -> str:
    """A paragraph with the accuracies of a run's result; empty if there is none."""
    if not scores or scores.get("test_accuracy_mean") is None:
        return ""

    def percent(name: str) -> str:
        return f"{100 * scores[f'{name}_mean']:.1f}% (± {100 * (scores.get(f'{name}_std') or 0):.1f})"

    text = f"\nFresh networks that train on them alone read {percent('test_accuracy')} of the test images"
    text += f", mean and\ndeviation of {scores['num_learners']} networks" if "num_learners" in scores else ""
    if scores.get("random_real_mean") is not None:
        text += f"; as many random real images give {percent('random_real')}"
    return f"{text}.\n"
