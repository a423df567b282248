"""SVHN, cropped house numbers of 32x32 pixels, from its authors' MATLAB files.

References:
  Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning".
"""

from pathlib import Path

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.data.cache import cached, of_archive
from jaxdistill.data.dataset import Raw
from jaxdistill.data.original_files import Original, folder_of
from jaxdistill.data.tfds_sets import Source, prepared_folder, read_prepared

URL = "http://ufldl.stanford.edu/housenumbers/"
FILES = (
    Original(
        f"{URL}train_32x32.mat",
        182_040_794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    Original(
        f"{URL}test_32x32.mat",
        64_275_384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
)
"""The training and the test part, with the checksums that TFDS has registered."""


def load_svhn(source: Source) -> Raw:
    """The set as 32x32x3 uint8, 73,257 and 26,032 images: as TFDS prepared it, or from the authors' files.

    These are looked for in `source.manual_dir`; without that they are downloaded, 246 MB. The 531,131 images
    called extra are not read. Images have the order of the files; TFDS has another, and therefore another
    validation part for the same seed. The files are read once; then the arrays, 305 MB, are in the cache.

    Raises:
      UserError: files that are missing, damaged, or cannot be downloaded.
    """
    prepared = prepared_folder(source.data_dir, source.name)
    if prepared is not None:
        return read_prepared(prepared, source)

    def read() -> Raw:
        folder = folder_of(source, FILES)
        (x, y), (x_test, y_test) = (read_mat(folder / file.name) for file in FILES)
        return Raw(source.name, x, y, tuple(map(str, range(10))), 255.0, x_test, y_test)

    key = "-".join(file.sha256[:16] for file in FILES)
    return cached(of_archive(source.data_dir, source.name, key), read)


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """([N, 32, 32, 3] uint8, [N] int64 digits): `X` is [32, 32, 3, N], `y` [N, 1] with 10 for the digit 0.

    Raises:
      UserError: a file that is damaged, or whose arrays are others.
    """
    from scipy.io import loadmat

    where = f"load(svhn_cropped) {path.name}"
    try:
        content = loadmat(path)
    except Exception as error:  # damage in a MATLAB file raises anything
        raise fail(where, "an intact MATLAB file", f"a damaged or different file ({error!r})") from None
    for key in ("X", "y"):
        if key not in content:
            raise fail(where, "arrays X and y", f"no {key}")
    x, y = content["X"], content["y"].reshape(-1)
    if x.dtype != np.uint8 or x.shape[:3] != (32, 32, 3) or x.ndim != 4:
        raise fail(where, "X, a uint8 array [32, 32, 3, N]", f"{x.dtype} {x.shape}")
    if y.shape != x.shape[3:]:
        raise fail(where, f"{x.shape[3]} labels in y, one per image", len(y))
    if not np.isin(y, np.arange(1, 11)).all():
        raise fail(where, "labels 1 to 10 in y", y[~np.isin(y, np.arange(1, 11))][0])
    return np.ascontiguousarray(np.moveaxis(x, 3, 0)), y.astype(np.int64) % 10
