"""What importing the library brings with it: a name costs what is behind it when it is first asked for."""

import json
import subprocess
import sys

import jaxdistill as jd

HEAVY = ("jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn")
CHILD = f"""
import json, sys

def brought():
    return [name for name in {HEAVY!r} if name in sys.modules]

import jaxdistill
first = brought()
import jaxdistill.runs.distill
second = brought()
jaxdistill.learner("linear", image_shape=(4, 4, 1), num_classes=3)
print(json.dumps([first, second, brought()]))
"""


def test_importing_brings_little():
    ended = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    package, runs, a_network = json.loads(ended.stdout)
    assert package == [] and runs == ["jax", "optax"]
    assert a_network == ["jax", "flax", "optax"]


def test_every_name_is_there():
    for name in jd.__all__:
        assert getattr(jd, name) is not None
    assert set(jd.__all__) <= set(dir(jd))
