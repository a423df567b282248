"""How a network is trained for evaluation: order of the images, step sizes, momentum, augmentation.

A protocol is chosen before the test set is seen, and the FINAL iterate is what counts.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.augment import DSA, Augmentation, Mixing, cutmix, dc_evaluation
from jaxdistill.core.checks import at_least, fail, one_of
from jaxdistill.core.keys import at_step
from jaxdistill.core.types import Array, Augment, InnerOptimizer
from jaxdistill.evaluation.protocol import Protocol, multiples
from jaxdistill.inner.optimizers import adam, sgd


def as_distilled(
    order: Array | np.ndarray,
    optimizer: InnerOptimizer,
    values: dict[str, Array],
    *,
    weight_decay: float = 0.0,
    shuffle: str = "none",
    loss: str = "cross_entropy",
    labels: str = "probabilities",
    temperature: float = 1.0,
) -> Protocol:
    """The training that the data were distilled for: the same batches, steps and step sizes.

    Args:
      order: [T, B] int32, the images of each inner step.
      optimizer: the inner optimiser of the distillation.
      values: its hyper-parameters as learned, each [T] or [1].
      weight_decay: of the inner loss.
      shuffle: `batches`, whole ones, or `images`, over all batches, anew for every network; `none`.
      loss: of the inner loop; a learned temperature is given as `temperature`.
      labels: the kind of labels that the data have.
      temperature: what logits are divided by.
    """
    one_of("as_distilled shuffle", shuffle, ("none", "batches", "images"))
    steps = jax.device_put(np.asarray(order, np.int32), may_alias=False)
    for name, value in values.items():
        if value.shape not in ((1,), (steps.shape[0],)):
            raise fail(
                "as_distilled", f"1 or {steps.shape[0]} values of {name}, one per step", value.shape[0]
            )

    def ordered(key: Array) -> Array:
        if shuffle == "images":
            return jax.random.permutation(key, steps.reshape(-1)).reshape(steps.shape)
        return jax.random.permutation(key, steps) if shuffle == "batches" else steps

    return Protocol(
        "as_distilled", ordered, optimizer, values, weight_decay, 0, None, loss, labels, temperature
    )


def epochs(
    num_images: int,
    *,
    num_epochs: int,
    batch_size: int = 256,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    decay_at_half: bool = False,
    drop_after: Sequence[float] = (),
    augment: Augment | None = None,
    mix: Mixing | None = None,
    name: str = "epochs",
) -> Protocol:
    """SGD over shuffled epochs.

    An epoch is ceil(N / batch_size) batches of equal size; where N does not divide, the last batch is
    filled up from the start of the same shuffle.

    Args:
      num_images: N.
      num_epochs: passes over the set, >= 1.
      batch_size: the most images of a step.
      learning_rate, momentum, weight_decay: of SGD, shared by all steps.
      decay_at_half: step size x 0.1, and the momentum restarts, after half of the epochs.
      drop_after: step size x 0.2 after each of these shares of the epochs, in [0, 1], where one has gone by.
      augment: applied to every batch.
      mix: applied to every batch after that.
      name: what tables call it.
    """
    at_least("epochs", "num_images", num_images, 1)
    at_least("epochs", "num_epochs", num_epochs, 1)
    at_least("epochs", "batch_size", batch_size, 1)
    batches = -(-num_images // batch_size)
    num_steps = num_epochs * batches
    half = (num_epochs // 2) * batches if decay_at_half else 0
    order = shuffled(num_images, num_steps=num_steps, batch_size=batch_size)
    rates = np.full(num_steps, learning_rate, np.float32)
    rates[half:] *= 0.1 if half else 1.0
    for drop in (int(share * num_epochs) * batches for share in drop_after):
        rates[drop:] *= 0.2 if drop else 1.0
    optimizer = sgd(num_steps=num_steps, learning_rate=rates, momentum=momentum, learned=())
    values = optimizer.values(optimizer.init())
    return Protocol(name, order, optimizer, values, weight_decay, half, augment, mix=mix)


def shuffled(num_images: int, *, num_steps: int, batch_size: int) -> Callable[[Array], Array]:
    """key -> [T, B] int32: shuffled epochs of ceil(N / batch_size) equal batches, cut off at T steps."""
    batches = -(-num_images // batch_size)
    size = -(-num_images // batches)
    num_epochs = -(-num_steps // batches)

    def order(key: Array) -> Array:
        def epoch(number: Array) -> Array:
            shuffle = jax.random.permutation(at_step(key, number), num_images)
            return jnp.resize(shuffle, (batches, size)).astype(jnp.int32)

        return jax.lax.map(epoch, jnp.arange(num_epochs)).reshape(-1, size)[:num_steps]

    return order


def regression(
    num_images: int,
    *,
    num_steps: int,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    warm_up: int = 0,
    last: float = 1.0,
    augment: Augment | None = None,
    loss: str = "squared",
    name: str = "regression",
) -> Protocol:
    """Adam on shuffled epochs, with a squared loss as a rule: how sets with free labels are tested.

    Args:
      num_images: N.
      num_steps: T.
      batch_size: the most images of a step.
      learning_rate: of Adam, its largest.
      warm_up: the first steps, in which it grows evenly to this; at most half of all.
      last: what it falls to by a cosine afterwards, as a share; 1 for a constant one.
      augment: applied to every batch.
      loss: `squared` or `cross_entropy`.
      name: what tables call it.

    Returns:
      The protocol, without weight decay; its Adam adds 1e-12 inside the root, which is 1e-6 outside.

    Raises:
      UserError: a number below 1.

    References: Zhou, Nezhadarya & Ba 2022 (a constant rate); Loo et al. 2023 (500 steps of warm-up, cosine).
    """
    for what, value in (("num_images", num_images), ("num_steps", num_steps), ("batch_size", batch_size)):
        at_least("regression", what, value, 1)
    rising = min(warm_up, num_steps // 2)
    steps = np.arange(num_steps)
    fallen = np.maximum(steps - rising, 0) / max(1, num_steps - rising)
    shares = last + (1 - last) * 0.5 * (1 + np.cos(np.pi * fallen))
    shares = np.where(steps < rising, (steps + 1) / max(1, rising), shares)
    optimizer = adam(num_steps=num_steps, learning_rate=learning_rate * shares, eps_root=1e-12, learned=())
    return Protocol(
        name=name,
        order=shuffled(num_images, num_steps=num_steps, batch_size=batch_size),
        optimizer=optimizer,
        values=optimizer.values(optimizer.init()),
        weight_decay=0.0,
        restart=0,
        augment=augment,
        loss=loss,
        peak=rising,
        step_sizes=multiples(learning_rate),
    )


def pretraining(
    num_images: int, *, num_epochs: int = 40, batch_size: int = 128, learning_rate: float = 2e-4
) -> Protocol:
    """Adam (0.5, 0.999) over shuffled epochs, the step size x 0.1 after half of them.

    Args:
      num_images: N.
      num_epochs: passes over the set, >= 1.
      batch_size: the most images of a step.
      learning_rate: of Adam.

    Returns:
      The protocol; its Adam adds 1e-12 inside the root, which is 1e-6 outside.

    Raises:
      UserError: a number below 1.

    References: Wang et al. 2018, section 4.1 (networks trained for adaptation and attack).
    """
    halved = epochs(
        num_images,
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.0,
        decay_at_half=True,
        name="pretraining",
    )
    rates = np.asarray(halved.values["learning_rate"])
    optimizer = adam(num_steps=len(rates), learning_rate=rates, b1=0.5, eps_root=1e-12, learned=())
    values = optimizer.values(optimizer.init())
    return halved._replace(optimizer=optimizer, values=values, restart=0, step_sizes=multiples(learning_rate))


def few_steps(
    num_images: int,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Protocol:
    """SGD for `num_steps` steps on shuffled batches of N images; the shuffle repeats when all had their turn.

    Args:
      num_images: N.
      num_steps: T.
      batch_size: B, images of a step.
      learning_rate, momentum, weight_decay: of SGD, shared by all steps.

    Raises:
      UserError: a number below 1.

    Example:
      >>> few_steps(1000, num_steps=32, batch_size=128).order(jax.random.key(0)).shape
      (32, 128)

    References: Such et al. 2019, section 4.2 (few-step accuracy).
    """
    for name, value in (("num_images", num_images), ("num_steps", num_steps), ("batch_size", batch_size)):
        at_least("few_steps", name, value, 1)

    def order(key: Array) -> Array:
        shuffled = jax.random.permutation(key, num_images).astype(jnp.int32)
        return jnp.resize(shuffled, (num_steps, batch_size))

    optimizer = sgd(num_steps=num_steps, learning_rate=learning_rate, momentum=momentum, learned=())
    values = optimizer.values(optimizer.init())
    return Protocol("few_steps", order, optimizer, values, weight_decay, 0, None)


def dc(
    num_images: int,
    *,
    learning_rate: float = 0.01,
    num_epochs: int | None = None,
    augment: Augment | None = None,
    name: str = "dc",
) -> Protocol:
    """The protocol of the matching papers (DC, DSA, DM).

    SGD, momentum .9, weight decay 5e-4, batch 256, step size x .1 after half of the epochs (momentum
    restarts there); 300 epochs, or 1000 with augmentation. Where 256 does not divide N, batches are equal
    parts instead (500 images are 2 x 250), see `epochs`.

    References: Zhao et al. 2021, "Dataset Condensation with Gradient Matching", section 4.1.
    """
    count = num_epochs if num_epochs is not None else 300 if augment is None else 1000
    return epochs(
        num_images,
        num_epochs=count,
        learning_rate=learning_rate,
        decay_at_half=True,
        augment=augment,
        name=name,
    )


MATCHING: dict[str, Callable[[Augmentation], Augment | None]] = {
    "dc": lambda augmentation: None,
    "dc_augmented": lambda augmentation: dc_evaluation(),
    "dsa": lambda augmentation: augmentation.per_image,
}
"""The matching papers' protocols, by what they do to the images: DC's, DC's for MNIST, DSA's and DM's."""
CUTMIX = cutmix(probability=0.5)
MULTIFORMATION: dict[str, Mixing | None] = {"idc": CUTMIX, "idc_unmixed": None}
"""IDC's protocol, by how batches are mixed; it has no CutMix on MNIST."""
REGRESSION: dict[str, Callable[[Augmentation], dict[str, Any]]] = {
    "frepo": lambda augmentation: {"learning_rate": 3e-4, "augment": augmentation.per_image},
    "rcig": lambda augmentation: {"learning_rate": 1e-4, "warm_up": 500, "last": 0.01},
    "rat": lambda augmentation: {
        "learning_rate": 1e-3,
        "augment": augmentation.siamese,
        "loss": "cross_entropy",
    },
}
"""The protocols of papers that train by Adam, by what they set of `regression`."""
UPDATES: dict[str, dict[int, int]] = {
    "frepo": {1: 1000, 10: 2000, 50: 5000},
    "rat": {1: 1000},
}
"""Steps by images per class in these papers. The authors of RaT-BPTT report the best of several numbers of
steps, by test data; one of these is taken here."""
UPDATES_IN_ALL = {"rcig": {1: 1000, 11: 2000}}
"""Steps by the number of images: RCIG has 1,000 for ten images, and 2,000 for more."""
PUBLISHED = (*MATCHING, *MULTIFORMATION, *REGRESSION)
PROTOCOLS = ("as_distilled", *PUBLISHED)
"""The names that `--protocol` takes."""


@lru_cache(maxsize=64)
def published(
    name: str,
    num_images: int,
    *,
    augmentation: Augmentation = DSA,
    learning_rate: float | None = None,
    num_epochs: int | None = None,
    num_classes: int = 10,
    labels: str = "probabilities",
) -> Protocol:
    """One of `PUBLISHED`, by its name; the same object for the same arguments, compiled once by `evaluator`.

    | name | optimiser | loss | images | steps |
    | --- | --- | --- | --- | --- |
    | `dc` | SGD 0.01, momentum 0.9 | cross-entropy | as they are | 300 epochs |
    | `dc_augmented` | the same | the same | cropped, scaled or turned (MNIST in the paper) | 1000 epochs |
    | `dsa` | the same | the same | augmented as in DSA | 1000 epochs |
    | `idc` | the same, x 0.2 after 2/3 and 5/6 | the same | augmented as in DSA, CutMix | 1000 epochs |
    | `idc_unmixed` | the same | the same | augmented as in DSA | 1000 epochs |
    | `frepo` | Adam 3e-4 | squared | augmented as in DSA | 1000, 2000, 5000 for 1, 10, 50 images per class |
    | `rcig` | Adam 1e-4, 500 warm up, cosine to 1 % | squared | as they are | 2000; 1000 for ten images |
    | `rat` | Adam 1e-3 | cross-entropy | augmented, one draw a batch | 1000 |

    Args:
      name: of the table.
      num_images: N.
      augmentation: of `dsa`, `idc`, `frepo` and `rat`.
      learning_rate: the paper's when None.
      num_epochs: passes over the images; the paper's when None.
      num_classes: images per class decide the steps of `frepo`: those of the next fewer there.
      labels: the kind of labels that it is given.

    Raises:
      UserError: an unknown name, or no epochs.

    References: Zhao et al. 2021, section 4.1; Zhao & Bilen 2021, section 4.1; Zhao & Bilen 2023, section 4.1;
    Kim et al. 2022; Zhou, Nezhadarya & Ba 2022; Loo et al. 2023; Feng et al. 2023.
    """
    one_of("protocol", name, PUBLISHED)
    if name in MULTIFORMATION:
        plan = epochs(
            num_images,
            num_epochs=1000 if num_epochs is None else num_epochs,
            batch_size=64,
            learning_rate=0.01 if learning_rate is None else learning_rate,
            drop_after=(2 / 3, 5 / 6),
            augment=augmentation.per_image,
            mix=MULTIFORMATION[name],
            name=name,
        )
        return plan._replace(labels=labels)
    if name in MATCHING:
        augment = MATCHING[name](augmentation)
        rate = 0.01 if learning_rate is None else learning_rate
        plan = dc(num_images, learning_rate=rate, num_epochs=num_epochs, augment=augment, name=name)
        return plan._replace(labels=labels)
    own = REGRESSION[name](augmentation)
    if learning_rate is not None:
        own |= {"learning_rate": learning_rate}
    if num_epochs is not None:
        at_least("published", "num_epochs", num_epochs, 1)
        num_steps = num_epochs * -(-num_images // 256)
    else:
        in_all = name in UPDATES_IN_ALL
        steps = UPDATES_IN_ALL[name] if in_all else UPDATES[name]
        count = num_images if in_all else max(1, num_images // num_classes)
        num_steps = steps[max(known for known in steps if known <= count)]
    return regression(num_images, num_steps=num_steps, name=name, **own)._replace(labels=labels)
