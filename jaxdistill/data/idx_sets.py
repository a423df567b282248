"""MNIST, Fashion-MNIST and KMNIST as TFDS sets, prepared from the authors' files without TensorFlow.

TFDS's own builders call TensorFlow to unpack `.gz` and to encode PNG. A subclass that unpacks with the
standard library and hands over PIL images does not, and gives the same set.
"""

import contextlib
import gzip
import hashlib
import io
import struct
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from jaxdistill.core.checks import fail
from jaxdistill.data.dataset import Raw
from jaxdistill.data.tfds_sets import Source, import_tfds, prepared_folder, quiet, read_prepared

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
NAMES = [name for pair in FILES.values() for name in pair]
PROBE_SECONDS = 10.0
READ_SECONDS = 30.0


def load_idx(source: Source) -> Raw:
    """The set, prepared first where it is not: about half a minute, once.

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
    where = f"load({source.name})"
    base = _base_class(source.name, where)
    if source.manual_dir is None:
        files = download(source, base)
    else:
        files = source.manual_dir
        missing = [name for name in NAMES if not (files / name).is_file()]
        if missing:
            remedy = f"They come from {base.URL}"
            raise fail(where, f"{', '.join(NAMES)} in {files}", f"no {', '.join(missing)}", remedy)
        for name in NAMES:
            problem = damage(files / name, _registered(base, name))
            if problem:
                remedy = f"Take it anew from {urljoin(base.URL, name)} (each set in a folder of its own)."
                raise fail(where, f"the registered file {files / name}", problem, remedy)
    _build(source, base, files)
    folder = prepared_folder(source.data_dir, source.name)
    assert folder is not None
    return folder


def download(source: Source, base: Any) -> Path:
    """Fetches the four files into `data_dir/downloads/<name>`, unless they are there and intact.

    Raises:
      UserError: no connection (said within `PROBE_SECONDS`), or what arrives is not the registered file.
    """
    where = f"load({source.name})"
    folder = source.data_dir / "downloads" / source.name
    wanted = [name for name in NAMES if damage(folder / name, _registered(base, name))]
    host = urlsplit(base.URL).hostname
    remedy = f"Or pass manual_dir, a folder with {', '.join(NAMES)} (from {base.URL})."
    if wanted:
        problem = probe(urljoin(base.URL, wanted[0]), PROBE_SECONDS)
        if problem:
            raise fail(where, f"a connection to {host} to download the set", problem, remedy)
    for name in wanted:
        part = folder / f"{name}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(urljoin(base.URL, name), timeout=READ_SECONDS) as response:
                part.write_bytes(response.read())
            problem = damage(part, _registered(base, name))
            if problem:
                raise fail(where, f"the registered {name} from {host}", problem, remedy)
            part.replace(folder / name)
        except (OSError, HTTPException) as error:
            raise fail(where, f"a complete download of {name} from {host}", repr(error), remedy) from None
        finally:
            part.unlink(missing_ok=True)
    return folder


def probe(url: str, seconds: float) -> str:
    """Why `url` cannot be fetched, in words; empty if it can. Takes `seconds` at most.

    In a thread, since looking up a name heeds no timeout; through the proxies of the environment.
    """
    answer = [f"no answer in {seconds:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answer[0] = ""
        except (OSError, HTTPException) as error:
            answer[0] = str(getattr(error, "reason", error)) or repr(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


def damage(path: Path, registered: tuple[int, str]) -> str:
    """How a file differs from its registered (bytes, SHA-256), in words; empty if it does not."""
    if not path.is_file():
        return "no such file"
    size, checksum = registered
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes in place of {size}"
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    return "" if actual == checksum else f"SHA-256 {actual[:12]}... in place of {checksum[:12]}..."


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes: [N, H, W] images or [N] labels, uint8."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _base_class(name: str, where: str) -> Any:
    with quiet():
        return import_tfds(where).builder_cls(name)


def _registered(base: Any, name: str) -> tuple[int, str]:
    info = base.url_infos[urljoin(base.URL, name)]
    return int(info.size), info.checksum


def _build(source: Source, base: Any, files: Path) -> None:
    """TFDS writes into a temporary folder and renames it, so a set is there whole or not at all."""
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
            pairs = zip(read_idx(Path(images)), read_idx(Path(labels)), strict=True)
            for i, (image, label) in enumerate(pairs):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    config = tfds.download.DownloadConfig(manual_dir=str(files), try_download_gcs=False)
    try:
        with quiet(), tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
            builder = Builder(data_dir=str(source.data_dir))
            builder.download_and_prepare(
                download_dir=unused, download_config=config, file_format="array_record"
            )
    except OSError as error:
        if prepared_folder(source.data_dir, source.name) is None:  # else another process was faster
            raise fail(
                where, f"a folder to write in at {source.data_dir}", repr(error), "Pass data_dir."
            ) from None
