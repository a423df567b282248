"""Write the images of a run for other programs.

Question: how do I train on these images in PyTorch, look at them as pictures, or publish them?

    python -m experiments.export --run=RUN --to=torch --output=images.pt

`--to=torch` writes tensors and prints code that trains on them, `folder` a PNG per image in a folder per
class, `hf` a Hugging Face data set with a card, `npz` an `.npz` with pixels of 8 bits. `torch` and `hf` need
the extras of these names. Takes seconds.
"""

from pathlib import Path
from typing import ClassVar

from experiments import cli
from jaxdistill.config import option as base
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import resolve
from jaxdistill.core.checks import fail
from jaxdistill.runs.export import export


@options
class Options(base.Options):
    title: ClassVar[str] = "export"
    run: str | None = option(None, "folder of a finished run, whose images are exported")
    synthetic: str | None = option(None, "synthetic.npz of a run, instead of --run")
    to: str = option("torch", "the format", known="jaxdistill.runs.export:FORMATS")
    output: str | None = option(None, "the file or folder to write")
    overwrite: bool = option(False, "replace the output if it exists and is an export")


def run(options: Options) -> Path:
    """Writes the images, and says what was written.

    Returns:
      The path.

    Raises:
      UserError: bad input, before anything is written.
    """
    options = resolve(options)
    images = options.run or options.synthetic
    if images is None or (options.run and options.synthetic):
        raise fail("export", "--run=FOLDER or --synthetic=FILE.npz", "both" if images else "nothing")
    if options.output is None:
        raise fail("export", "--output=PATH", "nothing")
    return export(images, options.output, to=options.to, overwrite=options.overwrite)


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
