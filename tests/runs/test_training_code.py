"""The code for PyTorch that an export prints: it trains as we do, and says what was shuffled."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from synthetic_files import INFO, SGD, written
from tiny_runs import ROOT

import jaxdistill as jd
from jaxdistill.core.types import Batch, Meta
from jaxdistill.inner.losses import inner_loss
from jaxdistill.inner.optimizers import INNER_OPTIMIZERS
from jaxdistill.interop import kernel_to_torch
from jaxdistill.learners.adapter import layers_of
from jaxdistill.runs.given_images import content
from jaxdistill.runtime.export import read_synthetic
from jaxdistill.runtime.training_code import from_torch_file, training_code

STEPS = {
    "sgd": {"learning_rate": np.array([0.3, 0.2, 0.1]), "momentum": np.array([0.0, 0.5, 0.9])},
    "adam": {"learning_rate": np.array([0.03, 0.02, 0.01])},
    "rmsprop": {"learning_rate": np.array([0.03, 0.02, 0.01])},
}
NETWORKS = {
    "linear": {},
    "mlp": {"width": 5, "depth": 2, "activation": "tanh"},
    "convnet": {"width": 4, "depth": 2, "kernel": 5},
    "convnet max": {"width": 4, "depth": 2, "pooling": "max"},
    "convnet widths": {"widths": (4, 6), "depth": 2, "norm": "none", "activation": "softplus60"},
    "convnet group": {"width": 4, "depth": 2, "norm": "group", "activation": "swish"},
    "convnet layer": {"width": 4, "depth": 1, "norm": "layer", "activation": "leaky_relu", "pooling": "none"},
}
CASES = [("linear", optimizer, 0.01) for optimizer in STEPS] + [(net, "sgd", 0.0) for net in NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "optimizer", "decay"), CASES, ids=lambda value: str(value))
def test_the_code_trains_as_we_do_from_the_same_weights(net, optimizer, decay, tmp_path, torch):
    options, name = NETWORKS[net], net.split()[0]
    info = INFO._replace(image_shape=(8, 10, 3), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    inner = SGD | {"inner_optimizer": optimizer, "weight_decay": decay}
    saved = {"learner": name, "norm": None, **options}
    more = {"info": info, "hyperparameters": STEPS[optimizer], "inner": inner, "learner": saved}
    file = read_synthetic(written(tmp_path / "synthetic.npz", **more))
    path = jd.export(tmp_path / "synthetic.npz", tmp_path / "a.pt", progress=False)
    learner = jd.learner(name, image_shape=info.image_shape, num_classes=3, **options)
    params = learner.init(jax.random.key(0))
    made: dict = {}
    setup, loop = training_code(file, from_torch_file(str(path))).split("order = ")
    exec(setup, made)
    load(torch, made["net"], learner, params, info.image_shape)
    exec(f"order = {loop}", made)

    inner = INNER_OPTIMIZERS[optimizer](num_steps=3, learned=(), **file.hyperparameters)
    loss = partial(inner_loss(learner, weight_decay=decay), Meta((), {}))
    values, ours, state = inner.values(inner.init()), params, None
    # op by op: in programs compiled with the flags of the tests, gradients of max pooling are off
    for t, rows in enumerate(file.order):
        step = inner.build({name: value[t] for name, value in values.items()})
        gradient = jax.grad(loss)(ours, Batch(file.images[rows], file.labels[rows]))
        updates, state = step.update(gradient, step.init(ours) if state is None else state, ours)
        ours = optax.apply_updates(ours, updates)
    x = np.random.default_rng(1).normal(size=(5, *info.image_shape)).astype(np.float32)
    with torch.no_grad():
        logits = made["net"](torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(logits, learner.apply(ours, x), rtol=2e-4, atol=2e-4)
    assert np.abs(logits - learner.apply(params, x)).max() > 0.02  # it learned


def load(torch, net, learner, params, shape):
    """Our weights in a network of PyTorch, whose parameters stand in the order of the layers."""
    theirs, channels = iter(net.parameters()), shape[-1]
    with torch.no_grad():
        for path in layers_of(learner, shape):
            layer = params["params"]
            for part in path:
                layer = layer[part]
            kernel = np.asarray(layer.get("kernel", layer.get("scale")))
            if kernel.ndim > 1:
                flat = kernel.ndim == 2
                kernel = kernel_to_torch(kernel, channels if flat else 1)
                channels = 1 if flat else len(kernel)
            next(theirs).copy_(torch.from_numpy(np.array(kernel)))
            next(theirs).copy_(torch.from_numpy(np.array(layer["bias"])))
    assert next(theirs, None) is None


@pytest.mark.slow
def test_pytorch_reaches_the_accuracy_of_our_networks(tmp_path, torch):
    """The same ConvNet, trained by the code that the export prints, within one standard deviation."""
    options = {"width": 8, "depth": 2, "num_outer_steps": 150, "num_learners": 2, "real_batch_size": 128}
    options |= {"inner_learning_rate": 0.3, "outer_learning_rate": 0.05, "progress": False}
    run = jd.distill(dataset="digits", learner="convnet", **options)
    path = jd.export(run, tmp_path / "digits.pt", progress=False)
    code = training_code(content(run), from_torch_file(str(path)))
    test = torch.from_numpy(np.asarray(run.data.test.x).transpose(0, 3, 1, 2).copy())
    labels, theirs = np.asarray(run.data.test.y).argmax(axis=1), []
    for seed in range(10):
        torch.manual_seed(seed)
        made: dict = {}
        exec(code, made)
        with torch.no_grad():
            theirs.append(np.mean(made["net"](test).numpy().argmax(axis=1) == labels))
    short = {"num_learners": 10, "protocols": ["as_distilled"], "progress": False}
    (row,) = jd.evaluate(run, "convnet:width=8:depth=2", **short)["rows"]
    ours = row["as_distilled"]
    assert ours["mean"] > 0.5  # chance is 0.1
    assert abs(np.mean(theirs) - ours["mean"]) < max(ours["std"], np.std(theirs))


@pytest.mark.slow
def test_the_code_of_a_method_without_steps_trains(tmp_path, torch):
    file = written(tmp_path / "synthetic.npz", hyperparameters={}, learner={"learner": "lenet"})
    path = jd.export(file, tmp_path / "a.pt", progress=False)
    code = training_code(read_synthetic(file), from_torch_file(str(path)))
    assert (
        "# a ConvNet; the images were distilled for another network, lenet" in code and "epochs = 300" in code
    )
    made: dict = {}
    exec(code.replace("epochs = 300", "epochs = 60"), made)
    assert made["net"](made["x"]).argmax(1).tolist() == made["y"].argmax(1).tolist()  # it learned its images


@pytest.mark.parametrize(("shuffle", "says"), [("batches", "batches were"), ("images", "images were")])
def test_the_code_shuffles_what_was_shuffled(tmp_path, shuffle, says):
    file = read_synthetic(written(tmp_path / "synthetic.npz", inner=SGD | {"shuffle": shuffle}))
    code = training_code(file, from_torch_file("a.pt"))
    assert f"# {says} drawn at random" in code and 'd["momentum"]' in code
    compile(code, "code", "exec")


def test_the_readme_shows_the_code(tmp_path):
    ten = INFO._replace(class_names=tuple("0123456789"))
    learner = {"learner": "convnet", "width": 8, "depth": 2}
    file = written(tmp_path / "synthetic.npz", info=ten, labels=np.eye(10)[:4], learner=learner)
    code = training_code(read_synthetic(file), from_torch_file("digits.pt"))
    readme = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    assert f"```python\n{code}\n```" in readme.replace("  # fmt: skip", "")
