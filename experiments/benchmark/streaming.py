"""Images on the disk against images on the device: time of an outer step, and the memory of the process."""

import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.options import Options
from experiments.measure import Row, interleaved, ratio_of_medians, row
from jaxdistill.config.table import Config
from jaxdistill.runs.distill import distilled
from jaxdistill.runs.plan import Plan, planned
from jaxdistill.runtime import progress

PIECE = 10_000
"""Images that are written at a time."""
SHAPE = (32, 32, 3)
MEMORY = "200MB"
RESIDENT_GB = 5.0
"""A larger set is not put on the device."""


def streaming(options: Options) -> Iterator[Row]:
    """DM with a set on the disk (`data_memory`) and on the device: outer steps, resident memory."""
    few = options.smoke
    count = 2_000 if few else round(options.stream_gb * 1e9) // int(np.prod(SHAPE))
    size = count * int(np.prod(SHAPE))
    steps, width = (4, 4) if few else (40, 64)
    config = Config(
        method="dm",
        images_per_class=1,
        learner="convnet",
        width=width,
        depth=3,
        real_batch_size=8 if few else 256,
        num_outer_steps=steps,
        chunk_length=2 if few else 10,
        full_data_epochs=0,
        num_baseline_learners=0,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory(prefix="jaxdistill") as folder:
        path = Path(folder) / "large.npz"
        progress.say(f"streaming: writes {count:,} images, {size / 1e9:.1f} GB")
        write(path, count, options.seed)
        with progress.silent():
            streamed = planned(config.replace(dataset=str(path), data_memory="1MB" if few else MEMORY))
            seconds(streamed)  # compiles
            before = resident_bytes()
            for _ in range(4):
                seconds(streamed)
            after = resident_bytes()
            sides = {"streamed": partial(seconds, streamed)}
            if size <= RESIDENT_GB * 1e9:
                sides["resident"] = partial(seconds, planned(config.replace(dataset=str(path))))
            times = interleaved(sides, options.repeats, patience=float("inf"))
    common: dict[str, Any] = {"learner": f"convnet {width}", "K": 1, "set_bytes": size}
    ratio = None
    if "resident" in sides:
        ratio = ratio_of_medians(times, "streamed", "resident")
        yield row("streaming", "resident", times["resident"], **common, ratio=1.0)
    memory: dict[str, Any] = {"resident_bytes_before": before, "resident_bytes_after": after}
    yield row("streaming", "streamed", times["streamed"], **common, **memory, ratio=ratio)


def seconds(plan: Plan) -> float:
    """Time of an outer step of a whole run, compilation apart."""
    return distilled(plan, None).finished.seconds / plan.config.num_outer_steps


def write(path: Path, count: int, seed: int) -> None:
    """An `.npz` of random images of ten classes, written in pieces; 1,000 images in each test part."""
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for part, size in {"": count, "_validation": 1000, "_test": 1000}.items():
            header = {"descr": "|u1", "fortran_order": False, "shape": (size, *SHAPE)}
            with archive.open(f"x{part}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, size, PIECE):
                    shape = (min(PIECE, size - start), *SHAPE)
                    file.write(random.integers(0, 256, shape, np.uint8).tobytes())
            with archive.open(f"y{part}.npy", "w") as file:
                np.lib.format.write_array(file, np.arange(size) % 10)


def resident_bytes() -> int:
    """Memory of this process that is in RAM now (VmRSS)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024
