"""Arrays of an `.npz` that stay on the disk: memory maps of uncompressed members."""

import contextlib
import mmap
import struct
import zipfile
from pathlib import Path

import numpy as np

LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a zip file's member: lengths of its name and of an extra field at the end; both follow."""


def mapped_arrays(path: Path) -> dict[str, np.ndarray]:
    """The uncompressed arrays of an `.npz` by name, as memory maps.

    Raises:
      OSError, ValueError, zipfile.BadZipFile: a damaged file.
    """
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
                continue
            file.seek(member.header_offset)
            file.seek(sum(LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))), 1)
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                continue
            shape, fortran, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(file)
            if dtype.hasobject or fortran or not shape or 0 in shape:
                continue
            name = member.filename.removesuffix(".npy")
            found[name] = np.memmap(path, dtype, "r", file.tell(), shape)
    return found


def forget(array: np.ndarray) -> None:
    """Frees the memory of a memory map's pages; does nothing for other arrays."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it only costs memory
            base.madvise(mmap.MADV_DONTNEED)
