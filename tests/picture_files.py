"""Small pictures in folders and archives, and their data set."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from jaxdistill import data


def pixels(seed, shape=(6, 6, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array, **options):
    return encoded(Image.fromarray(array), "png", **options)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def some(parts=("",), classes=("cat", "dog"), count=4, shape=(6, 6, 3)):
    """Path to content, every picture another one."""
    names = [f"{part}{c}/{i}.png" for part in parts for c in classes for i in range(count)]
    return {name: png(pixels(seed, shape)) for seed, name in enumerate(names)}


def archive(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def load(path, tmp_path, **options):
    return data.load(str(path), data_dir=tmp_path / "cache", **options)
