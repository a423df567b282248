"""Files that the code of the papers writes: read as tensors, with the labels beside them, never as code."""

import argparse
import sys

import numpy as np
import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.data import DatasetInfo
from jaxdistill.runs.given_images import content, protocols_for, standardised
from jaxdistill.runtime.torch_files import read_torch

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
INFO = DatasetInfo("cifar10", (4, 5, 3), 10, tuple("abcdefghij"), 255.0, *CIFAR)
X = np.random.default_rng(0).normal(size=(20, 3, 4, 5)).astype(np.float32)
LAST = X.transpose(0, 2, 3, 1)
Y = np.arange(10).repeat(2)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.fixture
def save(torch, tmp_path):
    """Saves values by file name, arrays as tensors; says where the first is."""

    def write(files, **options):
        for name, value in files.items():
            value = torch.tensor(value) if isinstance(value, np.ndarray) else value
            torch.save(value, tmp_path / name, **options)
        return tmp_path / next(iter(files))

    return write


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        standardised(read_torch(path), INFO)
    text = message(error)
    assert "\n" not in text
    return text


def test_mtt_writes_images_and_labels_side_by_side(save, capsys):
    shuffled = np.random.default_rng(1).permutation(Y)
    found = content(save({"images_best.pt": X, "labels_best.pt": shuffled}))
    batch = standardised(found, INFO)
    np.testing.assert_array_equal(batch.x, LAST)  # our statistics of CIFAR-10 are the authors'
    np.testing.assert_array_equal(batch.y, np.eye(10)[shuffled])
    assert list(protocols_for(found, (), None, INFO)) == ["dc"] and capsys.readouterr().out == ""


def test_datm_writes_logits(save):
    logits = np.random.default_rng(1).normal(size=(20, 10)).astype(np.float32)
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    path = save({"images_best.pt": X, "labels_best.pt": logits})
    np.testing.assert_allclose(standardised(read_torch(path), INFO).y, soft, rtol=1e-5)
    save({"labels_best.pt": soft})  # probabilities stay
    np.testing.assert_allclose(standardised(read_torch(path), INFO).y, soft, rtol=1e-5)


def test_dc_writes_a_dict_of_experiments(save, torch, capsys):
    data = [[torch.tensor(X), torch.tensor(Y)], [torch.tensor(X + 1), torch.tensor(Y)]]
    accuracies = {"ConvNet": [np.float64(0.5), np.mean(np.float32([0.25]))], "MLP": []}
    content = {"data": data, "accs_all_exps": accuracies}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        batch = standardised(read_torch(save({"res_DC.pt": content}, **options)), INFO)
        np.testing.assert_array_equal(batch.x, LAST)
        np.testing.assert_array_equal(batch.y, np.eye(10)[Y])
        assert "note: 2 experiments in the file; the first is taken" in capsys.readouterr().out


def test_images_without_labels_are_in_the_order_of_the_classes(save, capsys):
    path = save({"images_100.pt": X.astype(np.float16)})
    batch = standardised(read_torch(path), INFO)
    assert "note: images_100.pt has no labels; as many images of each class are taken, in order" in (
        capsys.readouterr().out
    )
    np.testing.assert_array_equal(batch.y, np.eye(10)[Y])
    text = refused(save({"images_100.pt": X[:15]}))
    assert "equally many images of each of 10 classes, got 15 images and no labels" in text


def test_the_authors_standardisation_becomes_ours(save):
    path = save({"images_best.pt": X, "labels_best.pt": Y})
    svhn = INFO._replace(name="svhn_cropped", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), scale=255.0)
    pixels = LAST * np.float64([0.1980, 0.2010, 0.1970]) + [0.4377, 0.4438, 0.4728]
    ours = (pixels - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(standardised(read_torch(path), svhn).x, ours, atol=1e-5)
    with pytest.raises(UserError) as error:
        standardised(read_torch(path), INFO._replace(name="digits"))
    assert (
        "one of cifar10, cifar100, fashion_mnist, mnist, svhn_cropped, tiny_imagenet, got 'digits'"
        in message(error)
    )
    with pytest.raises(UserError) as error:
        standardised(read_torch(path), INFO._replace(image_shape=(5, 4, 3)))
    assert "images 5x4x3 as in cifar10, got 4x5x3" in message(error)


class Attack:
    """Pickled, it calls a function when it is read."""

    def __reduce__(self):
        return exec, ("import sys; sys.modules['attacked'] = sys",)


def test_code_is_refused_and_not_run(save, torch):
    for value in (
        Attack(),
        {"data": [[torch.tensor(X), Attack()]]},
        torch.nn.Linear(2, 2),
        argparse.Namespace(),
    ):
        text = refused(save({"images.pt": value}))
        assert "expected tensors, got Python objects (" in text and "which are code" in text
    assert "attacked" not in sys.modules
    save({"images.pt": X, "labels.pt": Attack()})
    path = save({"images.pt": X})
    assert "labels.pt): expected tensors, got Python objects (" in refused(path)
    assert "attacked" not in sys.modules


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            {"images": 1, "x": 2},
            "{'data': [[images, labels]]} or what jd.export writes, got a dict of images, x",
        ),
        (3, "got int"),
        ({"data": []}, "data as a list of [images, labels], got an empty one"),
        ({"data": 3}, "data as a list of [images, labels], got int"),
        ({"data": [[1]]}, "[images, labels] in data, got list"),
        ({"data": [[1, 2]]}, "images as a tensor, got int"),
        (X[0], "images [N, C, H, W], got (3, 4, 5)"),
        (LAST, "images [N, C, H, W] of 1 or 3 channels, got (20, 4, 5, 3)"),
        (X * np.nan, "finite images"),
        ({"format": "jaxdistill synthetic images"}, "arrays x and y, got only an empty file"),
        ({"format": "jaxdistill synthetic images", "mean": None}, "mean as a tensor or a plain value"),
    ],
)
def test_other_content_is_one_line(save, value, says):
    assert says in refused(save({"file.pt": value}))


def test_damaged_files_are_one_line(save, tmp_path):
    whole = save({"images.pt": X}).read_bytes()
    for part in (b"", b"text", whole[: len(whole) // 2], whole[:100]):
        (tmp_path / "images.pt").write_bytes(part)
        assert "expected an intact file of torch.save, got a damaged or different file." in refused(
            tmp_path / "images.pt"
        )
    assert "no file of that name" in refused(tmp_path / "none.pt")
    save({"images.pt": X, "labels.pt": Y[:5]})
    assert "one row per image" in refused(tmp_path / "images.pt")


def test_without_pytorch_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "images.pt").write_bytes(b"")
    with pytest.raises(UserError) as error:
        content(tmp_path / "images.pt")
    assert "PyTorch, for .pt files, got an import error" in message(error)
