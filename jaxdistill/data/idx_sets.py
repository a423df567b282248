"""MNIST, Fashion-MNIST and KMNIST as TFDS sets, prepared from the authors' files without TensorFlow.

TFDS's own builders call TensorFlow to unpack `.gz` and to encode PNG. A subclass that unpacks with the
standard library and hands over PIL images does not, and gives the same set.
"""

import contextlib
import gzip
import io
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.core.reporting import report
from jaxdistill.data.dataset import Raw
from jaxdistill.data.original_files import Original, folder_of
from jaxdistill.data.tfds_sets import Source, import_tfds, prepared_folder, quiet, read_prepared

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
NAMES = [name for pair in FILES.values() for name in pair]


def load_idx(source: Source) -> Raw:
    """The set; the first call prepares it in about half a minute.

    Raises:
      UserError: files that are missing, damaged, or cannot be downloaded; a folder that cannot be written.
    """
    folder = prepared_folder(source.data_dir, source.name) or prepare(source)
    return read_prepared(folder, source)


def prepare(source: Source) -> Path:
    """Writes the set in TFDS's form below `source.data_dir`, and returns its folder.

    The original files are looked for in `source.manual_dir`; without that they are downloaded. They are
    checked against the SHA-256 that TFDS has registered before anything is written.

    Raises:
      UserError: as `load_idx`.
    """
    base = _base_class(source.name, f"load({source.name})")
    files = folder_of(source, originals(base))
    _build(source, base, files)
    folder = prepared_folder(source.data_dir, source.name)
    assert folder is not None
    return folder


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes: [N, H, W] images or [N] labels, uint8."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _base_class(name: str, where: str) -> Any:
    with quiet():
        return import_tfds(where).builder_cls(name)


def originals(base: Any) -> list[Original]:
    """The four files as TFDS has registered them."""
    infos = {url: base.url_infos[url] for url in (urljoin(base.URL, name) for name in NAMES)}
    return [Original(url, int(info.size), info.checksum) for url, info in infos.items()]


def _build(source: Source, base: Any, files: Path) -> None:
    """Builds the set. TFDS writes into a temporary folder and renames it, so a set is never half there."""
    where = f"load({source.name})"
    tfds = import_tfds(where)
    from PIL import Image

    class Builder(base, skip_registration=True):  # pyright: ignore
        name = base.name

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            urls = {split: [urljoin(self.URL, name) for name in pair] for split, pair in FILES.items()}
            paths = dl_manager.download(urls)  # takes them from `files`, and checks them
            return {split: self._generate_examples(*pair) for split, pair in paths.items()}

        def _generate_examples(self, images: Any, labels: Any) -> Iterator[tuple[int, dict[str, Any]]]:
            pixels, numbers = read_idx(Path(images)), read_idx(Path(labels))
            for i, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
                report(f"preparing {source.name}, images", i, len(pixels))
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    config = tfds.download.DownloadConfig(manual_dir=str(files), try_download_gcs=False)
    try:
        with quiet(), tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
            builder = Builder(data_dir=str(source.data_dir))
            builder.download_and_prepare(
                download_dir=unused, download_config=config, file_format="array_record"
            )
    except (OSError, RuntimeError) as error:  # TFDS turns a full disk into the second
        if prepared_folder(source.data_dir, source.name) is None:  # else another process was faster
            raise fail(
                where, f"a folder to write in at {source.data_dir}", repr(error), "Pass data_dir."
            ) from None
