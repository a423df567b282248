"""Accuracies of networks trained on real images, cached so that they are computed only once.

A row depends on the data, the network, the protocols, the search, the seed and the machine, but not on a
distillation. It is stored in the user's cache by all of these.
"""

import hashlib
import json
import platform
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.checks import UserError
from jaxdistill.core.fingerprint import fingerprint
from jaxdistill.core.platform import target
from jaxdistill.core.types import Array, Batch, Meta, Params
from jaxdistill.core.user_cache import user_cache
from jaxdistill.data import Splits
from jaxdistill.evaluation import SEMANTICS, Evaluation, Protocol, Score, Subsets, Tuned, tuned
from jaxdistill.evaluation.protocol import candidates
from jaxdistill.inner.losses import inner_loss
from jaxdistill.runs.plan import digest_standardised
from jaxdistill.runtime import hosts, progress
from jaxdistill.runtime.atomic import write_json
from jaxdistill.runtime.compile_cache import machine
from jaxdistill.runtime.expected_time import Shorter
from jaxdistill.runtime.profile import environment

OF_A_RUN = ("commit", "python")
"""Parts of the environment that change no number, or that `SEMANTICS` stands for."""
_digests: list[tuple[list[weakref.ref], str]] = []
"""Of the last set: (images and labels of each of its parts, digest)."""


class Reference(NamedTuple):
    """A row on real images."""

    found: Tuned
    reused: bool
    """Whether the user's cache had it."""
    made: str
    """When it was computed: UTC, ISO 8601."""

    def as_fields(self) -> dict[str, Any]:
        """The fields of result files about the origin of the row."""
        return {"reused": self.reused, "made": self.made}


def reference(
    name: str,
    evaluation: Evaluation,
    protocols: Sequence[Protocol],
    images: Batch,
    subsets: Subsets,
    *,
    data: Splits,
    step_sizes: Sequence[float],
    fresh: bool,
    shorter: Shorter | str,
) -> Reference:
    """`jaxdistill.evaluation.tuned` on real images, or its result from the user's cache if it is there.

    Args:
      name: of the row, for people.
      evaluation, protocols, images, subsets, step_sizes: as for `tuned`; `images` are the training images.
      data: the splits that all of them are of.
      fresh: computes them anew in any case.
      shorter: how to wait less, see `jaxdistill.runtime.progress.expected`.
    """

    def make() -> dict[str, Any]:
        lengths = [steps_of(protocol) for protocol in protocols]
        trained = sum(len(candidates(p, step_sizes)) * n for p, n in zip(protocols, lengths, strict=True))
        searched = evaluation.search_learners * trained
        with progress.expecting(name, searched + evaluation.num_learners * max(lengths), shorter):
            return _as_json(tuned(evaluation, protocols, images, subsets, step_sizes=step_sizes))

    who = identity(evaluation, protocols, subsets, data=data, step_sizes=step_sizes)
    content, reused, made = kept(who, make, name=name, fresh=fresh, shown=_shown)
    return Reference(_from_json(content), reused, made)


def steps_of(protocol: Protocol) -> int:
    """T, the number of training steps of a network."""
    return jax.eval_shape(protocol.order, jax.random.key(0)).shape[0]


def kept(
    who: Mapping[str, Any] | None,
    make: Callable[[], Any],
    *,
    name: str,
    fresh: bool,
    shown: Callable[[Any], str],
) -> tuple[Any, bool, str]:
    """What `make` makes, in JSON's types, or what it made before for the same identity.

    Args:
      who: all that the numbers depend on; None if that is not known: then nothing is read or written.
      make: computes it.
      name: of the row, for people.
      fresh: computes it anew in any case.
      shown: the numbers in a few words; raises KeyError, TypeError or ValueError if they are damaged.

    Returns:
      (the numbers, whether they were read, when they were made).
    """
    text = json.dumps(who, sort_keys=True)
    file = user_cache() / "reference" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    found = None if who is None or fresh else hosts.from_primary(lambda: _read(file, text, shown))
    if found is not None:
        progress.say(
            f"reused: {name}, {shown(found['content'])}, computed on {found['made'][:10]} by "
            f"{found['host']}, read from {file}; fresh_baselines computes it again"
        )
        return found["content"], True, found["made"]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.loads(json.dumps(make()))
    if who is not None and hosts.is_primary():
        about = {"name": name, "made": made, "host": platform.node(), "identity": json.loads(text)}
        try:
            write_json(file, about | {"content": content})
        except UserError as error:
            progress.say(f"note: {name} is not kept ({error})")
    return content, False, made


def _read(file: Path, text: str, shown: Callable[[Any], str]) -> dict[str, Any] | None:
    """A kept row; None where there is none, or a damaged one, which is made anew."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        same = json.dumps(found["identity"], sort_keys=True) == text
        shown(found["content"])
        if same and isinstance(found["made"], str) and isinstance(found["host"], str):
            return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    progress.say(f"note: {file} is damaged; it is written again")
    return None


def identity(
    evaluation: Evaluation,
    protocols: Sequence[Protocol],
    subsets: Subsets,
    *,
    data: Splits,
    step_sizes: Sequence[float],
) -> dict[str, Any] | None:
    """All that `tuned` on the training images depends on, in JSON's types; None if a part cannot be told."""
    network = network_of(evaluation, data, subsets)
    trainings = [training_of(protocol, data) for protocol in protocols]
    if network is None or None in trainings:
        return None
    return {
        **setting(evaluation.key, data),
        "network": network,
        "protocols": trainings,
        "step_sizes": _searched(protocols, step_sizes),
        "num_learners": evaluation.num_learners,
        "num_search_learners": evaluation.search_learners,
        "strategy": [evaluation.strategy, evaluation.learner_chunk],
    }


def _searched(protocols: Sequence[Protocol], step_sizes: Sequence[float]) -> list[float] | list[list[float]]:
    """The candidates: one list where all protocols have the chosen ones, otherwise a list for each."""
    every = [[float(each) for each in candidates(protocol, step_sizes)] for protocol in protocols]
    chosen = [float(each) for each in step_sizes]
    return chosen if all(each == chosen for each in every) else every


def setting(key: Array, data: Splits) -> dict[str, Any]:
    """What numbers depend on besides networks and protocols: program, data, seed, arithmetic, machine."""
    around = jax.sharding.get_abstract_mesh()
    return {
        "semantics": SEMANTICS,
        "data": _digest(data),
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
        "machine": [target(), machine(), str(around.shape)],
        **{name: value for name, value in environment().items() if name not in OF_A_RUN},
    }


def network_of(evaluation: Evaluation, data: Splits, subsets: Subsets) -> list[str] | None:
    """Fingerprints of where networks come from, what they compute, and which images they see."""
    learner, draws = evaluation.learner, (evaluation.contexts, evaluation.search_contexts)
    image, label = (
        jax.ShapeDtypeStruct((1, *a.shape[1:]), jnp.float32) for a in (data.train.pixels, data.train.y)
    )
    key = jax.random.key(0)

    def one(draw: Callable[[Array, int], Params]) -> Callable[[Array], Params]:
        return lambda key: jax.tree.map(lambda a: a[0], draw(key, 1))

    params = jax.eval_shape(one(evaluation.contexts), key)

    def computed(params: Params, x: Array, y: Array) -> Any:
        loss = inner_loss(learner)
        gradient = jax.value_and_grad(lambda p: loss(Meta((), {}), p, Batch(x, y)))(params)
        return gradient, learner.apply(learner.calibrate(params, x), x)

    parts = [fingerprint(one(draw), key) for draw in draws if draw is not None]
    parts += [fingerprint(computed, params, image, label), fingerprint(lambda key: subsets(key, 1), key)]
    return None if None in parts else [part for part in parts if part is not None]


def training_of(protocol: Protocol, data: Splits) -> dict[str, Any] | None:
    """A protocol's fields, its functions by their fingerprints and its values by their digest."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    now = {name: jax.ShapeDtypeStruct((), value.dtype) for name, value in protocol.values.items()}
    image = jax.ShapeDtypeStruct((1, *data.train.pixels.shape[1:]), jnp.float32)

    def update(now: dict[str, Array], gradient: Params) -> Any:
        transform = protocol.optimizer.build(now)
        return transform.update(gradient, transform.init(gradient), gradient)

    gradient = jax.ShapeDtypeStruct((2,), jnp.result_type(float))
    parts = [fingerprint(protocol.order, key), fingerprint(update, now, gradient)]
    if protocol.augment is not None:
        parts.append(fingerprint(protocol.augment, key, image))
    if (mix := protocol.mix) is not None:
        label = jax.ShapeDtypeStruct((1, data.train.y.shape[1]), jnp.float32)
        parts.append(fingerprint(lambda key, x, y: mix(key, Batch(x, y)), key, image, label))
    if None in parts:
        return None
    values = hashlib.sha256()
    for name, value in sorted(protocol.values.items()):
        values.update(name.encode() + np.asarray(value).tobytes())
    plain = {
        name: value for name, value in protocol._asdict().items() if isinstance(value, str | int | float)
    }
    return plain | {"functions": parts, "value_digest": values.hexdigest()}


def _digest(data: Splits) -> str:
    """Of every image and label; once for a set that is used again and again."""
    arrays = [each for part in data[:3] for each in (part.pixels, part.y)]
    for known, digest in _digests:
        if all(one() is other for one, other in zip(known, arrays, strict=True)):
            return digest
    digest = digest_standardised(data)
    _digests[:] = [([weakref.ref(each) for each in arrays], digest)]
    return digest


def _as_json(found: Tuned) -> dict[str, Any]:
    searched = {name: list(scores.items()) for name, scores in found.searched.items()}
    return {**found._asdict(), "score": found.score._asdict(), "searched": searched}


def _from_json(content: Mapping[str, Any]) -> Tuned:
    searched = {name: dict(map(tuple, scores)) for name, scores in content["searched"].items()}
    return Tuned(Score(**content["score"]), content["protocol"], content["step_size"], searched)


def _shown(content: Mapping[str, Any]) -> str:
    found = _from_json(content)
    return f"{100 * found.score.mean:.1f} ± {100 * found.score.std:.1f}%"
