"""The direction of imports: downward only, neighbours on one line do not import each other."""

import ast
from pathlib import Path

import pytest

import jaxdistill

ROOT = Path(jaxdistill.__file__).parent
LINES = (
    ("core",),
    ("layers",),
    ("data", "augment", "learners", "teachers"),
    ("inner",),
    ("objectives", "populations"),
    ("evaluation",),
    ("methods", "baselines"),
    ("runtime",),
)
"""From the bottom up; the experiments stand on top."""
LEVEL = {folder: level for level, line in enumerate(LINES) for folder in line}
FOLDER_OF = {"flax": ("layers", "learners", "teachers"), "absl": (), "time": ("runtime",)}
"""Packages that only some folders may import."""
FILES = sorted(ROOT.rglob("*.py"))


def imports(tree: ast.AST, package: str) -> list[str]:
    """Full names of what a module imports, inside functions too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def faults(source: str, folder: str) -> list[str]:
    """What a module in a folder of the package (top level: "") may not do."""
    tree = ast.parse(source)
    found = []
    for name in imports(tree, f"jaxdistill.{folder}".strip(".")):
        top, *rest = name.split(".")
        if top in FOLDER_OF and folder not in FOLDER_OF[top]:
            found.append(f"imports {name}, which is for {FOLDER_OF[top] or 'the experiments'}")
        if top == "experiments":
            found.append(f"imports {name} from above")
        if top != "jaxdistill" or not folder:
            continue
        other = rest[0] if rest and rest[0] in LEVEL else None
        whole = folder == "runtime" and rest in ([], ["__version__"])  # its version and where it is installed
        if other is None and not whole:
            found.append(f"imports {name}, which is no folder of the design")
        if other is not None and other != folder and LEVEL[other] >= LEVEL[folder]:
            found.append(f"imports {name}: {other} is not below {folder}")
    if folder != "runtime":
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += ["prints" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    folder, *_ = (*path.relative_to(ROOT).parts[:-1], "")
    assert folder in LEVEL or not folder, f"{folder} is no folder of the design: give it a line here"
    assert faults(path.read_text(), folder) == []


def test_every_folder_of_the_package_was_looked_at():
    assert {"core", "layers", "data", "learners", "teachers", "inner", "methods", "runtime"} <= {
        path.relative_to(ROOT).parts[0] for path in FILES
    }


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("core", "from jaxdistill.layers import conv"),
        ("data", "import jaxdistill.learners.mlp"),
        ("inner", "def f():\n    from jaxdistill.objectives import validation"),
        ("populations", "from jaxdistill.objectives.validation import validation"),
        ("methods", "from jaxdistill.baselines.random_real import random_real"),
        ("inner", "from jaxdistill import methods"),
        ("inner", "from ..methods import dd"),
        ("methods", "from jaxdistill.runtime import loop"),
        ("runtime", "import experiments.build"),
        ("core", "import jaxdistill"),
        ("inner", "import flax.linen as nn"),
        ("runtime", "from absl import flags"),
        ("data", "from time import sleep"),
        ("methods", "print(1)"),
    ],
)
def test_the_check_finds_faults(folder, source):
    assert len(faults(source, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("baselines", "from jaxdistill.evaluation import tuned"),
        ("runtime", "from jaxdistill.methods.dd import dd\nimport time\nprint(time.time())"),
        ("learners", "import flax.linen\nfrom jaxdistill.layers.conv import conv2d\nfrom . import mlp"),
        ("runtime", "import jaxdistill\nfrom jaxdistill import __version__"),
        ("", "from jaxdistill.runtime.loop import distill"),
    ],
)
def test_the_check_lets_the_design_pass(folder, source):
    assert faults(source, folder) == []
