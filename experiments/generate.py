"""Draw more images from a saved generator.

Question: what do images of noise that the generator never saw look like, and how are they used elsewhere?

    python -m experiments.generate --run_dir=RUN --num_images=1000

RUN is a finished run of `experiments.distill --teacher=generator` (or `--method=gtn`). Writes
RUN/generated.npz (x in pixel units, x_standardised, y) and RUN/generated.png. The noise is new, of the
distribution that the generator was made for; its batches are as large as those it was trained in, since its
normalisation looks at a whole batch. Seconds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, cli
from experiments.options import DATA, RUN, Groups, Option, complete
from experiments.saved import load_run
from jaxdistill.core.checks import fail
from jaxdistill.core.keys import stream
from jaxdistill.data import to_pixels
from jaxdistill.runtime import figures, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.export import write_arrays

GROUPS: Groups = {
    "generator": {
        "run_dir": Option(None, str, "a finished run with teacher=generator; everything is written there"),
        "num_images": Option(1000, int, "images, balanced over the classes", low=1),
    },
    "data": {
        "dataset": Option(None, str, "the .npz of a run that was distilled from a user's own images"),
        "data_dir": DATA["data_dir"],
        "manual_dir": DATA["manual_dir"],
    },
    "run": {"seed": RUN["seed"]},
}


def run(**chosen: Any) -> dict[str, Any]:
    """Draws images, writes `generated.npz` and `generated.png`.

    Args:
      **chosen: any option of `GROUPS`.

    Returns:
      {"x": [N, H, W, C] in pixel units, "x_standardised", "y": [N] integers}.

    Raises:
      UserError: bad input, or a run that learned images and no generator.
    """
    config = complete(GROUPS, chosen)
    if not config["run_dir"]:
        raise fail("generate", "--run_dir=RUN", "nothing")
    saved = load_run(
        config["run_dir"],
        dataset=config["dataset"],
        data_dir=config["data_dir"],
        manual_dir=config["manual_dir"],
    )
    if saved.config["teacher"] != "generator":
        expected = "a run with teacher=generator"
        raise fail("generate", expected, f"teacher={saved.config['teacher']} in {config['run_dir']}")
    info, size = saved.data.info, build.batch_size(saved.config, saved.data.info)
    count = config["num_images"]
    batches = -(-count // size)
    fresh = {"curriculum": "none", "batch_size": size, "distill_steps": batches, "distill_epochs": 1}
    fresh |= {"soft_labels": False, "steps_at_once": 1}
    key = stream(jax.random.key(config["seed"]), "generate")
    teacher = build.teacher(saved.config | fresh, saved.data, key)
    network = {"network": saved.state.meta.teacher["network"]}
    made = jax.device_get(jax.jit(teacher.batches)(network, key))
    images = made.x.reshape(-1, *info.image_shape)[:count]
    labels = made.y.reshape(-1, info.num_classes)[:count].argmax(-1)
    arrays = {"x": to_pixels(images, info), "x_standardised": images, "y": labels.astype(np.int64)}
    atomic_write(saved.path / "generated.npz", lambda file: write_arrays(file, arrays))
    where = f"{saved.path / 'generated.npz'}"
    if info.image_shape[-1] in (1, 3):
        title = f"{info.name}, new noise, {saved.config['method']}"
        pixels = jnp.asarray(arrays["x"])
        figures.image_grid(
            saved.path / "generated.png", pixels, labels, info.class_names, title=title, scale=info.scale
        )
        where += " and generated.png"
    progress.say(f"{count} images of {info.num_classes} classes: {where}")
    return arrays


if __name__ == "__main__":
    cli.main(run, GROUPS, __doc__)
