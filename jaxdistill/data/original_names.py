"""The files that authors of named sets publish, by name: what `manual_dir` holds is no data set by itself."""

import os
from collections.abc import Collection

from jaxdistill.core.checks import fail
from jaxdistill.core.paths import as_path
from jaxdistill.data import cifar, idx_sets, svhn, tiny_imagenet, usps

ORIGINALS: dict[str, Collection[str]] = {
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), idx_sets.NAMES),
    **{
        name: [n for form in forms for n in (form.archive.name, form.folder)]
        for name, forms in cifar.FORMS.items()
    },
    "svhn_cropped": [file.name for file in svhn.FILES],
    "tiny_imagenet": [tiny_imagenet.ARCHIVE, tiny_imagenet.FOLDER],
    "usps": [*usps.FILES, *(f"{file}.gz" for file in usps.FILES)],
}
"""The files and folders of each named set."""


def check_no_original(path: str | os.PathLike) -> None:
    """Raises if a path leads to an original file of a named set; the error says how to load it.

    Raises:
      UserError: it does.
    """
    place = as_path("load", path)
    sets = [name for name, files in ORIGINALS.items() if place.name in files]
    if sets and place.exists():
        known = " or ".join(f"dataset={name}" for name in sets)
        expected = "a named set, or pictures or arrays of your own"
        remedy = f"Use {known} with manual_dir={place.absolute().parent}."
        raise fail(f"load({place.name})", expected, f"an original file of {' or '.join(sets)}", remedy)
