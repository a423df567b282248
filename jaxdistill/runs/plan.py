"""From options to a distillation: everything checked, nothing written yet."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.config import build
from jaxdistill.config.option import UNSET, Options
from jaxdistill.config.owners import brought
from jaxdistill.config.resolve import acting, check_effects, facts_before_loading, filled, resolve
from jaxdistill.config.saved import DIGESTS, config_from
from jaxdistill.config.table import (
    CADENCE,
    FREE,
    OWN_NETWORK,
    PLACES,
    Config,
    DataOptions,
    ReadingOptions,
    StreamingOptions,
)
from jaxdistill.core.checks import fail, needs
from jaxdistill.core.fingerprint import digest
from jaxdistill.core.keys import stream
from jaxdistill.core.platform import choices, platform, precision
from jaxdistill.core.types import Array, Data, Dataset, Learner, Method
from jaxdistill.data import DatasetInfo, Splits, load
from jaxdistill.data.origin import origin_of
from jaxdistill.data.streaming import BLOCK, HostImages, on_host
from jaxdistill.learners.spec import check_fits
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs import budget
from jaxdistill.runs.banks import Bank, bank_digest, bank_option, load_bank, network_of_bank
from jaxdistill.runtime import hosts, mesh, progress
from jaxdistill.runtime.loop import compiled_chunk
from jaxdistill.runtime.memory import total_bytes
from jaxdistill.runtime.metrics import require_tensorboard

READING = tuple(name for name in ReadingOptions.options() if name not in PLACES)
"""The options of how a data set is read."""
FIRST = ("method", "dataset", "teacher", "learner", "gradient", "population")
"""The options that an error about a difference names first."""
Change = Callable[[Splits], Splits]


class Plan(NamedTuple):
    """A complete distillation, before it runs."""

    chosen: Config
    """The options that the user chose."""
    config: Config
    """Every option."""
    identity: dict[str, Any]
    """What the run is, in JSON's types: two runs of one identity give the same images, on devices of one kind
    and at one precision."""
    data: Splits
    learner: Learner
    tested: Learner
    """The network that the images are tested on."""
    bank: Bank | None
    methods: list[Method]
    """A method for the networks of every shape, compiled; mostly one."""
    key: Array
    """Root key of the run."""
    devices: mesh.Layout | None
    """The devices that it runs on; None for one."""
    experiment: str = "distill"
    """The script that makes such runs."""

    @property
    def method(self) -> Method:
        return self.methods[0]

    @property
    def arguments(self) -> Data:
        """The arguments of the compiled outer step."""
        return Data(self.data.train, None if self.bank is None else self.bank.given)

    @property
    def made_of(self) -> str:
        """The number of images in words: `1 per class`, or `32 batches of 128` of a generator."""
        config = self.config
        if config.teacher == "images":
            return f"{config.images_per_class} per class"
        return f"{config.distill_steps} batches of {build.batch_size(config, self.data.info)}"


def planned(
    chosen: Config,
    *,
    data: Splits | str | os.PathLike | None = None,
    learner: Learner | None = None,
    change: Change = lambda data: data,
    more: Mapping[str, Any] | None = None,
    experiment: str = "distill",
    opening: bool = False,
) -> Plan:
    """The plan of a distillation with the given options.

    Args:
      chosen: any options.
      data: a data set instead of the one that the options name, or the path of one.
      learner: a network instead of the one that the options name.
      change: from the data set to the data that are distilled.
      more: further parts of the identity: how the data were changed.
      experiment: the script that makes such runs.
      opening: whether a saved run is opened: no bank of networks is needed then, and nothing is traced.

    Raises:
      UserError: bad input.
    """
    if isinstance(data, str | os.PathLike):
        if "dataset" in chosen.chosen():
            raise fail("distill", "either data or dataset", "both")
        chosen, data = chosen.replace(dataset=os.fspath(data)), None
    if data is not None and not isinstance(data, Splits):
        raise fail("distill", "data as jaxdistill.splits makes it, or a path", type(data).__name__)
    if data is not None:
        _check_beside_data(chosen, opening)
    origin = None if data is None else origin_of(data)
    if learner is not None:
        chosen = chosen.replace(learner=OWN_NETWORK)
    elif chosen.learner == OWN_NETWORK:
        raise fail("distill", f"a Learner object as learner, since the config names {OWN_NETWORK!r}", "none")
    if origin is not None:
        reading = {name: origin.reading.get(name, UNSET) for name in READING}
        chosen = chosen.replace(dataset=origin.name, **reading)
    elif data is not None:
        chosen = chosen.replace(dataset=data.info.name)
    expected = facts_before_loading(chosen) if data is None else Facts.of(data.info)
    if not opening:
        check_effects(chosen, expected)
    config = resolve(chosen, expected)  # wrong options raise before data are loaded
    chosen_network = _with_network_of_bank(chosen, config)
    config = resolve(chosen_network, expected)
    given = splits(chosen) if data is None else data
    own_data = (data is not None and origin is None) or bool(given.info.digest)
    if own_data:
        chosen = chosen.replace(dataset=given.info.name)
        chosen_network = chosen_network.replace(dataset=given.info.name)
    facts = Facts.of(given.info)
    if facts != expected:
        config = resolve(chosen_network, facts)
    key = jax.random.key(config.seed)
    batch_size = config.real_batch_size if "real_batch_size" in acting(config) else None
    if config.tensorboard:
        require_tensorboard()
    how = build.recipe(config)
    devices = mesh.layout(config.mesh, config.num_learners, batch_size)
    network = learner or build.learner(config, given.info)
    tested = build.tested(config, network, given.info)
    if learner is not None:
        check_fits(learner, given.info)
    extra = dict(more or {})
    if own_data:
        by_source = data is None or origin is not None
        extra["dataset_sha256"] = given.info.digest if by_source else digest_standardised(given)
    if learner is not None:
        extra["learner_sha256"] = learner_digest(learner, given.info)
    bank = None
    if not opening or (build.source(config).bank == "pool" and config.pool is not None):
        bank = load_bank(config, network, given.info, extra.get("dataset_sha256"))
    if bank is not None:
        extra[f"{bank_option(config)}_sha256"] = bank_digest(bank)
    changed = change(given)
    arguments = Data(changed.train, None if bank is None else bank.given)
    if on_host(changed.train):
        _check_on_host(config)
        if not opening:
            needs("data_memory", "grain", "grain", "grain, which fetches images ahead")
    if config.gradient == "auto" and how.trains:
        bytes_of = partial(
            _bytes_of, data=changed, arguments=arguments, network=network, key=key, devices=devices
        )
        config = budget.within_budget(chosen, facts, bytes_of, progress.say)
    networks = build.shapes(config, changed.info) if config.num_shapes else [network]
    methods = [
        _traced_once(build.method(config, changed, each, stream(key, "teacher start"))) for each in networks
    ]
    if not opening:  # a method that does not trace starts no run
        start = jax.eval_shape(methods[0].init, key)
        jax.eval_shape(methods[0].update, start, arguments, key)
        if (check := methods[0].check) is not None:
            check(methods[0].init(key), key)
    identity = identity_of(config) | extra
    return Plan(chosen, config, identity, changed, network, tested, bank, methods, key, devices, experiment)


def _with_network_of_bank(chosen: Config, config: Config) -> Config:
    """The chosen options, with those of the network that trained networks have where none was chosen."""
    there = network_of_bank(config)
    if chosen.chosen().get("learner", there.get("learner")) != there.get("learner"):
        return chosen
    return chosen.replace(**{**there, **chosen.chosen()})


def _traced_once(method: Method) -> Method:
    """The method, its functions under `jax.jit`: what `planned` checks is not traced again by the loop."""
    compiled = {name: jax.jit(getattr(method, name)) for name in ("init", "update", "synthesize")}
    return method._replace(**compiled)


def splits(config: DataOptions) -> Splits:
    """The data set that the options name, on the device; the same in every process of a run."""
    chosen = config.chosen()
    names = (*ReadingOptions.options(), *StreamingOptions.options())
    reading = {name: chosen[name] for name in names if name in chosen}
    with progress.counting():
        data = load(chosen.get("dataset", type(config).options()["dataset"].default), **reading)
    if jax.process_count() > 1:
        leaves = jax.tree.leaves((data.train, data.validation, data.test))
        hosts.agree("images and labels", {"CRC-32": [_crc(leaf) for leaf in leaves]})
    return data


def _crc(leaf: Any) -> int:
    """CRC-32 of an array, or of images on the host, in blocks."""
    found = 0
    for block in leaf.blocks() if isinstance(leaf, HostImages) else [leaf]:
        found = zlib.crc32(np.ascontiguousarray(block).data, found)
    return found


def identity_of(config: Options) -> dict[str, Any]:
    """The options of a resolved config that have an effect, without folders and devices, in JSON's types."""
    names = sorted((n for n in acting(config) if n not in PLACES), key=lambda n: n not in FIRST)
    values = config.values()
    return json.loads(json.dumps({name: values[name] for name in names}))


def script_identity(config: Options, data: Splits) -> dict[str, Any]:
    """The identity of a script's own run: options that have an effect, a digest of a user's own arrays."""
    own = {"dataset": data.info.name, "dataset_sha256": data.info.digest} if data.info.digest else {}
    return identity_of(config) | own


def identity_from(
    saved: Mapping[str, Any], where: str, cls: type[Options], data: Splits, present: Mapping[str, Any]
) -> dict[str, Any]:
    """The identity that an older version saved, as this version would have saved it.

    Args:
      saved: every option, null without a chosen value, and further parts of the identity.
      where: the file that it is in, for errors.
      cls: the class of its options.
      data: its images.
      present: the identity that this version saves; names the parts that are no options, and `data`.

    Raises:
      UserError: saved options that this version does not know; names them.
    """
    table = cls.options()
    parts = {*DIGESTS, *present} - {*table, *brought(cls, present)}
    given = {name: value for name, value in saved.items() if name in table or value is not None}
    options = {name: value for name, value in given.items() if name not in parts}
    others = {name: value for name, value in given.items() if name in parts}
    if "dataset_sha256" in others and same_images(others["dataset_sha256"], data):
        del others["dataset_sha256"]
        others |= {name: present[name] for name in ("dataset_sha256",) if name in present}
        options |= {name: present[name] for name in ("dataset", *READING) if name in present}
    facts = Facts.of(data.info)
    return identity_of(filled(config_from(options, where, cls), facts)) | others


def numbers_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that a result's numbers depend on."""
    return {name: value for name, value in identity.items() if name not in CADENCE}


def default_run_dir(plan: Plan) -> str:
    """A separate folder for every identity, so that the same command finds its run again."""
    pinned = {name: value for name, value in plan.identity.items() if name not in FREE}
    tag = hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]
    stem = plan.config.dataset.removesuffix(".npz").replace("\\", "/").rsplit("/", 1)[-1]
    name = plan.config.method if plan.experiment == "distill" else plan.experiment
    return f"runs/{name}-{Path(stem).name}-{tag}"


def same_images(digest: str, data: Splits) -> bool:
    """Whether a saved digest belongs to a set: to its source or its standardised images.

    Runs of `Splits` that a user made have the latter, as have all runs of older versions.
    """
    return digest == data.info.digest or digest == digest_standardised(data)


def digest_standardised(data: Splits) -> str:
    """SHA-256 of every standardised image and label of a set."""
    parts = (data.train, data.validation, data.test)
    found = hashlib.sha256()
    for part in parts:
        for leaf in (*_images_of(part), part.y, part.starts, part.counts):
            found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()


def _images_of(part: Dataset) -> Iterator[Array]:
    """Its standardised images, in blocks where they are 8-bit integers."""
    if part.table is None:
        yield part.pixels
        return
    for start in range(0, len(part.y), BLOCK):
        yield part.standardised(jnp.asarray(part.pixels[np.arange(start, min(start + BLOCK, len(part.y)))]))


def learner_digest(learner: Learner, info: DatasetInfo) -> str:
    """SHA-256 of what a network computes: its first weights and its logits, as JAX traces them on a CPU."""
    key, image = jax.random.key(0), jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
    with platform("cpu"), precision("float32"):  # the same on every machine
        init, params = jax.make_jaxpr(learner.init, return_shape=True)(key)
        return digest(init, jax.make_jaxpr(learner.apply)(params, image))


def _check_on_host(config: Config) -> None:
    """Raises if a run needs all training images on the device and they do not fit."""
    where = f"images larger than data_memory={config.data_memory}"
    for name in ("num_baseline_learners", "full_data_epochs"):
        if getattr(config, name):
            raise fail(where, f"{name} 0, which trains on images on the device", getattr(config, name))
    if config.gradient == "auto":
        raise fail(where, "another gradient", "auto")


def _check_beside_data(chosen: Config, opening: bool) -> None:
    """Raises where options name or change another data set beside the given one."""
    if "dataset" in chosen.chosen():
        raise fail("distill", "either data or dataset", "both")
    table = {} if opening else ReadingOptions.options() | StreamingOptions.options()
    for name, option in table.items():
        if chosen.chosen().get(name, option.default) != option.default:
            raise fail("distill", f"no {name} beside data", getattr(chosen, name))


def _bytes_of(
    config: Config,
    *,
    data: Splits,
    arguments: Data,
    network: Learner,
    key: Array,
    devices: mesh.Layout | None,
) -> int:
    """Bytes of a device that the chunk of outer steps of a config needs, as far as the compiler knows."""
    method = build.method(config, data, network, stream(key, "teacher start"))
    length = min(config.chunk_length or choices().chunk_length, config.num_outer_steps)
    with mesh.spread(devices):
        start = jax.eval_shape(method.init, key)
        return total_bytes(compiled_chunk(method, devices).lower(start, arguments, key, length).compile())
