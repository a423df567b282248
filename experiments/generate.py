"""Draw more images from a saved generator.

Question: what does the generator make of new noise? The file that this writes can be used without JAX.

    python -m experiments.generate --run_dir=RUN --num_images=1000

RUN is a finished run of `experiments.distill --teacher=generator` (or `--method=gtn`). Writes
RUN/generated.npz (x in pixel units, x_standardised, y, and the scale, mean, std and class_names of the data
set) and RUN/generated.png. The noise is new, of the distribution in the generator's training. Takes seconds.
"""

from pathlib import Path
from typing import Any, ClassVar

from experiments import cli
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.config.table import Places, SeedOptions
from jaxdistill.core.checks import fail
from jaxdistill.runs.generate import generate
from jaxdistill.runs.run import load_run
from jaxdistill.runtime import figures, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.export import data_arrays, write_arrays


@options
class Options(Places, SeedOptions):
    title: ClassVar[str] = "generator"
    run_dir: str | None = option(
        None, "folder of a finished run with teacher=generator; the images are written there too"
    )
    num_images: int = option(1000, "images to draw, equally many of every class", low=1)
    dataset: str | None = option(None, "the .npz of a run that was distilled from a user's own images")


def run(options: Options) -> dict[str, Any]:
    """Draws images, writes `generated.npz` and `generated.png`.

    Returns:
      {"x": [N, H, W, C] in pixel units, "x_standardised", "y": [N] integers}.

    Raises:
      UserError: bad input, or a run that learned images and no generator.
    """
    options = resolve(options)
    if options.run_dir is None:
        raise fail("generate", "--run_dir=RUN", "nothing")
    folder = Path(options.run_dir)
    saved = load_run(
        folder, dataset=options.dataset, data_dir=options.data_dir, manual_dir=options.manual_dir
    )
    pixels, standardised, labels = generate(saved, options.num_images, seed=options.seed)
    arrays = {"x": pixels, "x_standardised": standardised, "y": labels}
    info = saved.data.info
    content, written = arrays | data_arrays(info), f"{folder / 'generated.npz'}"
    atomic_write(folder / "generated.npz", lambda file: write_arrays(file, content))
    if info.image_shape[-1] in (1, 3):
        title = f"{info.name}, new noise, {saved.config.method}"
        file = folder / "generated.png"
        figures.image_grid(file, pixels, labels, info.class_names, title=title, scale=info.scale)
        written += f" and {file.name}"
    progress.say(f"{len(labels)} images of {info.num_classes} classes: {written}")
    return arrays


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
