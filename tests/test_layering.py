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
    ("config",),
    ("runtime",),
    ("runs",),
)
"""From the bottom up; the experiments stand on top."""
LEVEL = {folder: level for level, line in enumerate(LINES) for folder in line}
FOLDER_OF = {
    "flax": ("layers", "learners", "teachers"),
    "absl": (),
    "argparse": (),
    "time": ("runtime", "runs"),
    "datetime": ("runtime", "runs"),
    "matplotlib": ("runtime",),
    "orbax": ("runtime",),
}
"""Packages that only some folders may import; the experiments may import all of them."""
PRINTING = ("runtime", "runs")
TOOLS = ("cli", "signals", "start", "measure", "pages", "programs", "records", "tables")
"""Modules that all scripts share."""
ON_TOP_OF = {"study": ("report",), "league": ("report",)}
"""Packages of the experiments that stand on another one's modules."""
FILES = sorted(ROOT.rglob("*.py"))
SCRIPTS = sorted((ROOT.parent / "experiments").rglob("*.py"))


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
        if other is None and rest[:1] != ["version"]:
            found.append(f"imports {name}, which is no folder of the design")
        if other is not None and other != folder and LEVEL[other] >= LEVEL[folder]:
            found.append(f"imports {name}: {other} is not below {folder}")
    if folder not in PRINTING:
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += ["prints" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    return found + lookups(tree) * (folder != "config")


def lookups(tree: ast.AST) -> list[str]:
    """Options that are read from a dict by text, which no type checker sees."""
    read = (node for node in ast.walk(tree) if isinstance(node, ast.Subscript))
    return [
        f'config["{node.slice.value}"] in line {node.lineno}'
        for node in read
        if isinstance(node.slice, ast.Constant) and getattr(node.value, "id", "") == "config"
    ]


def script_faults(source: str, package: str) -> list[str]:
    """What a module of the experiments may not do; `package` is its folder there (top level: "")."""
    tree = ast.parse(source)
    found = []
    for name in imports(tree, f"experiments.{package}".strip(".")):
        top, *rest = name.split(".")
        known = (*TOOLS, *ON_TOP_OF.get(package, ()), package or None)
        if top == "experiments" and (not rest or rest[0] not in known):
            found.append(f"imports {name}, which is another script's")
    return found + lookups(tree)


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_one_module_asks_jax_for_its_platform(path):
    asks = "default_backend" in path.read_text()
    assert asks == (path == ROOT / "core" / "platform.py"), "ask jaxdistill.core.platform"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    folder, *_ = (*path.relative_to(ROOT).parts[:-1], "")
    assert folder in LEVEL or not folder, f"{folder} is no folder of the design: give it a line here"
    assert faults(path.read_text(), folder) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_no_script_imports_another(path):
    package, *_ = (*path.relative_to(ROOT.parent / "experiments").parts[:-1], "")
    assert script_faults(path.read_text(), package) == []


def test_every_folder_of_the_package_was_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT} == set(LEVEL)
    assert {"distill.py", "cli.py"} <= {path.name for path in SCRIPTS}


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
        ("config", "from jaxdistill.runtime import loop"),
        ("runtime", "from jaxdistill.runs.plan import planned"),
        ("methods", "from jaxdistill.config.table import Config"),
        ("runtime", "import experiments.cli"),
        ("runs", "import experiments.cli"),
        ("runs", "import matplotlib.pyplot as plt"),
        ("runs", "def f(config):\n    return config['seed']"),
        ("core", "import jaxdistill"),
        ("runtime", "from jaxdistill import __version__"),
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
        ("config", "from jaxdistill.methods import METHODS\ndef f(config):\n    return config['seed']"),
        ("runs", "import time\nfrom jaxdistill.runtime import loop\nprint(config.seed)"),
        ("runtime", "from jaxdistill.version import __version__"),
        ("", "from jaxdistill.runtime.loop import distill"),
    ],
)
def test_the_check_lets_the_design_pass(folder, source):
    assert faults(source, folder) == []


@pytest.mark.parametrize(
    ("package", "source", "count"),
    [
        ("", "from experiments import cli, distill", 1),
        ("", "from experiments.distill import run", 1),
        ("", "import experiments.study.cells", 1),
        ("", "def run(config):\n    return config['seed']", 1),
        ("report", "from experiments.study.cells import PRESETS", 1),
        ("study", "from experiments.report.write import write", 0),
        ("study", "from experiments.study.cells import cells\nfrom . import scores", 0),
        ("", "from experiments import cli, measure\nfrom experiments.tables import write_tables", 0),
        ("", "from experiments.start import HELP\nprint(result['config'], config.seed)", 0),
    ],
)
def test_the_check_of_scripts(package, source, count):
    assert len(script_faults(source, package)) == count
