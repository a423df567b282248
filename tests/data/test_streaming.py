"""Training images that stay on the host."""

import importlib
import mmap
import zlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import tiny_net

import jaxdistill as jd
from jaxdistill import data
from jaxdistill.core.checks import UserError
from jaxdistill.data import dataset, streaming
from jaxdistill.data.streaming import Chunks, HostImages, drawn_shape, indices, on_host
from jaxdistill.evaluation import as_they_are
from jaxdistill.runs.baselines import fits
from jaxdistill.runs.compare import all_images, random_images
from jaxdistill.runs.plan import splits
from jaxdistill.runtime import hosts, loop

pytest.importorskip("grain")
SMALL = {"num_outer_steps": 7, "chunk_length": 3, "num_learners": 2, "full_data_epochs": 0, "progress": False}
SMALL |= {"num_baseline_learners": 0, "real_batch_size": 5, "learner": "linear"}
DM = SMALL | {"method": "dm", "augment": ["crop"]}  # six operations, the default, take seconds to compile


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("streaming") / "mine.npz"
    x = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), np.uint8)
    np.savez(path, x=x, y=np.arange(90) % 3)
    return str(path)


def same_bits(left, right):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def test_a_run_on_the_host_has_the_bits_of_one_on_the_device(mine, monkeypatch):
    monkeypatch.setattr(dataset, "FLOAT_BYTES", 0)  # the set on the device is one of 8 bits, too
    here = jd.distill(**DM, dataset=mine)
    there = jd.distill(**DM, dataset=mine, data_memory="1kB")
    assert on_host(there.data.train) and not on_host(here.data.train)
    same_bits(there.state, here.state)
    assert there.plan.identity == here.plan.identity


def test_the_time_of_a_run_has_the_wait_for_images(mine, monkeypatch):
    clock, fetch = [0.0], loop.fetched

    def slow(*given):
        for each in fetch(*given):
            clock[0] += 10
            yield each

    monkeypatch.setattr(loop, "fetched", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run = jd.distill(**DM, dataset=mine, data_memory="1kB")
    assert run.finished.seconds == 30 and run.finished.compile_seconds == 0  # three chunks


@pytest.mark.slow
def test_a_run_on_the_host_is_resumed_and_goes_on_the_same(mine, tmp_path, monkeypatch):
    chosen = SMALL | {"dataset": mine, "data_memory": "1kB", "schedule": "constant"}
    whole = jd.distill(**chosen)
    monkeypatch.setattr("jaxdistill.runtime.loop._check_end", lambda *_: None)
    jd.distill(**chosen | {"num_outer_steps": 3}, run_dir=tmp_path / "run")
    text = (tmp_path / "run/config.json").read_text()
    (tmp_path / "run/config.json").write_text(text.replace('"num_outer_steps": 3', '"num_outer_steps": 7'))
    same_bits(jd.distill(**chosen, run_dir=tmp_path / "run").state.meta, whole.state.meta)


def test_a_run_on_the_host_is_opened_as_one(mine, tmp_path):
    run = jd.distill(**DM, dataset=mine, data_memory="1kB", run_dir=tmp_path / "run")
    opened = jd.load_run(tmp_path / "run", dataset=mine, data_memory="1kB", progress=False)
    assert on_host(opened.data.train)
    same_bits(opened.state, run.state)
    with pytest.raises(UserError, match="baselines: expected training images on the device"):
        fits(opened.plan)


def test_host_images_are_rows_of_an_array(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 1), np.uint8)
    np.save(tmp_path / "x.npy", x)
    rows = np.array([7, 3, 11, 0])
    images = HostImages(np.load(tmp_path / "x.npy", mmap_mode="r"), rows)
    assert images.shape == (4, 2, 2, 1)
    index = np.array([[3, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(images[index], x[rows][index])
    np.testing.assert_array_equal(images.reordered(np.array([2, 0]))[np.array([0])], x[[11]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_own_arrays_stay_in_their_file_unless_they_are_compressed(save, mine, tmp_path):
    with np.load(mine) as file:
        arrays = dict(file)
    save(tmp_path / "mine.npz", **arrays)
    here, there = data.load(mine), data.load(tmp_path / "mine.npz", data_memory="100B")
    assert (bases(there.train.pixels._images)[-1].__class__ is mmap.mmap) == (save is np.savez)
    assert here.info.digest == there.info.digest
    every = np.arange(len(here.train.y))
    pixels = np.rint(data.to_pixels(np.asarray(here.train.x), here.info))
    np.testing.assert_array_equal(there.train.pixels[every], pixels)


def bases(array):
    """The arrays that it is a view of, and what holds the memory of the last one."""
    found = [array]
    while getattr(found[-1], "base", None) is not None:
        found.append(found[-1].base)
    return found


def test_indices_are_those_that_are_drawn(mine, key):
    on_device, host = data.load(mine).train, data.load(mine, data_memory=100).train

    def draw(real, key, step):
        return data.sample_per_class(real, jax.random.fold_in(key, step), 4)

    found = indices(draw, host, key, 2)(5)
    assert found.shape == (2, 3, 4)
    for i, step in enumerate((5, 6)):
        np.testing.assert_array_equal(on_device.pixels[found[i]], draw(on_device, key, step).x)


class Held:
    """A sharding, as far as it says which images of a batch this process has."""

    def __init__(self, *parts):
        self.parts = parts

    def addressable_devices_indices_map(self, shape):
        whole = (slice(None),) * (len(shape) - 1)
        return {i: (*whole, part) for i, part in enumerate(self.parts)}


@pytest.mark.parametrize(
    ("parts", "own"),
    [
        ([slice(None)] * 2, [0, 1, 2, 3]),
        ([slice(0, 2), slice(0, 2)], [0, 1]),
        ([slice(3, 4), slice(1, 2)], [1, 3]),
    ],
)
def test_a_process_reads_the_images_that_its_devices_hold(parts, own, mine, key, monkeypatch):
    host = data.load(mine, data_memory=100).train
    read, get = [], HostImages.__getitem__
    monkeypatch.setattr(HostImages, "__getitem__", lambda *given: (read.append(given[1]), get(*given))[1])

    def draw(real, key, step):
        return data.sample_per_class(real, jax.random.fold_in(key, step), 4)

    assert drawn_shape(draw, host, key) == (3, 4)
    whole = Chunks(draw, host, key, 1, 4, 2)
    pixels, labels = Chunks(draw, host, key, 1, 4, 2, Held(*parts))[1]
    np.testing.assert_array_equal(pixels, whole[1][0][:, :, own])
    np.testing.assert_array_equal(labels, whole[1][1][:, :, own])
    assert read[0].shape == (1, 3, len(own)) and pixels.shape == (1, 3, len(own), 8, 8, 1)


def test_a_changed_label_goes_with_its_image(mine, key):
    host = data.load(mine, data_memory=100).train
    changed = host._replace(y=np.roll(host.y, 1, axis=0))  # the first image of each class has another label

    def draw(real, key, step):
        return data.sample_per_class(real, jax.random.fold_in(key, step), 8)

    rows = indices(draw, host, key, 2)(0)
    assert np.isin(host.starts, rows).any()
    np.testing.assert_array_equal(Chunks(draw, changed, key, 0, 2, 2)[0][1], changed.y[rows])


def test_no_chunk_traces_the_draw_again(mine, key):
    host, traced = data.load(mine, data_memory=100).train, []

    def draw(real, key, step):
        traced.append(step)
        return data.sample_per_class(real, jax.random.fold_in(key, step), 4)

    chunks = Chunks(draw, host, key, 0, 5, 2)
    before = len(traced)
    assert [len(chunks[i][1]) for i in range(len(chunks))] == [2, 2, 1]
    assert len(traced) == before > 0


def test_processes_compare_images_on_the_host_in_blocks(mine, monkeypatch):
    told, read, get = [], [], HostImages.__getitem__
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "agree", lambda what, value: told.append(value["CRC-32"]))
    monkeypatch.setattr(streaming, "BLOCK", 16)
    host = splits(jd.Config(dataset=mine, data_memory="1kB"))
    monkeypatch.setattr(HostImages, "__getitem__", lambda *given: (read.append(given[1]), get(*given))[1])
    splits(jd.Config(dataset=mine, data_memory="1kB"))
    assert max(index.size for index in read[-4:]) == 16  # 60 training images, none read at once
    whole = np.concatenate(list(host.train.pixels.blocks()))
    assert told[0] == told[1] and zlib.crc32(whole) in told[0]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"num_baseline_learners": 2},
            "num_baseline_learners 0, which trains on images on the dev",
        ),
        ({"full_data_epochs": 1}, "full_data_epochs 0"),
        ({"gradient": "auto", "memory_budget": "1GB"}, "another gradient, got auto"),
        ({"data_memory": "much"}, "data_memory: expected a size such as 2GB"),
        ({"image_size": 4}, "images of 8 bits, not resized, got float32"),
    ],
)
def test_what_cannot_be_on_the_host_is_one_line(chosen, says, mine):
    with pytest.raises(UserError, match=says):
        jd.distill(**SMALL | {"dataset": mine, "data_memory": "1kB"} | chosen)


def test_images_are_tested_without_random_real_ones(mine, tmp_path):
    np.savez(tmp_path / "ours.npz", x=np.zeros((3, 8, 8, 1), np.uint8), y=np.arange(3))
    found = jd.evaluate(
        tmp_path / "ours.npz", learners=["linear"], dataset=mine, data_memory="1kB", num_learners=1,
        num_epochs=1, protocols=["dc"], step_sizes=[0.1], progress=False,
    )  # fmt: skip
    assert "random_real" not in found["rows"][0]


def test_scripts_that_train_on_all_images_have_no_data_memory(mine, key):
    names = (
        "adapt analyses attack baselines distill equal_time evaluate experts few_step nas.__main__ pretrain "
        "scaling"
    )
    scripts = {name: importlib.import_module(f"experiments.{name}").Options for name in names.split()}
    assert [name for name, each in scripts.items() if "data_memory" in each.options()] == [
        "distill",
        "evaluate",
    ]
    host = data.load(mine, data_memory=100)
    net = tiny_net("linear")
    for use in (
        lambda: random_images(host, 1),
        lambda: all_images(host),
        lambda: as_they_are(net, jax.vmap(net.init)(key[None]), host.test, host.train, key),
    ):
        with pytest.raises(UserError, match="expected training images on the device, got images on the host"):
            use()
