"""The agenda: what is run on a GPU, in order."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PRESETS = Path(__file__).resolve().parents[1] / "presets"
DISTILLED = {"result.json": ".json", "images.png": ".png"}
"""Files of a distillation, and the endings of the results that they become."""


class Item(NamedTuple):
    """One thing to do."""

    name: str
    """Of its results."""
    measures: str
    """What it measures, in words."""
    command: Sequence[str]
    """Arguments of Python; the folder of its run is added."""
    results: Mapping[str, str]
    """File in the folder of its run -> ending of the result."""
    data: str | None = None
    """The named set that it needs."""
    after: str | None = None
    """The item whose folder it reads."""


def preset(
    name: str,
    measures: str,
    data: Path | None,
    *,
    script: str = "distill",
    after: tuple[str, Path] | None = None,
) -> Item:
    """An item that runs a preset, on the images of the data folder."""
    known = name.partition("_")[0]
    command = ["-m", f"experiments.{script}", f"--flagfile={PRESETS / name}.cfg"]
    if known != "digits":
        command.append(f"--dataset={(data or Path('FOLDER')) / known}.npz")
    if after is not None:
        command.append(f"--experts={after[1]}")
    results = DISTILLED if script == "distill" else {"result.json": ".json"}
    needs = None if known == "digits" else known
    return Item(name, measures, command, results, needs, None if after is None else after[0])


def benchmark(name: str, what: str, measures: str, *more: str) -> Item:
    """An item that runs parts of the benchmark."""
    command = ["-m", "experiments.benchmark", f"--what={what}", "--resume", *more]
    return Item(name, measures, command, {"rows.json": ".json"})


def items(data: Path | None, run_dir: Path) -> list[Item]:
    """The agenda, in order."""
    torch = ",torch" if importlib.util.find_spec("torch") else ""
    inner = "--torch_steps=images,implicit,generator"
    found = [
        benchmark("gpu_gradients", "gradients", "every method and gradient, tiny: are the numbers finite?"),
        benchmark("gpu_methods", f"methods{torch}", "outer steps of every method at its paper's size", inner),
        benchmark("gpu_evaluation", "evaluation", "20 networks by vmap, and one after another"),
    ]
    for known, end in (("mnist", "_full"), ("cifar10", "")):
        experts = f"{known}_experts{end}"
        rows = [
            preset(f"{known}_dc_1{end}", "DC, one image per class", data),
            preset(f"{known}_dm_10{end}", "DM, ten images per class", data),
            preset(f"{known}_dsa_10{end}", "DSA, ten images per class", data),
            preset(f"{known}_dc_10{end}", "DC, ten images per class", data),
            preset(experts, "a hundred experts for MTT", data, script="experts"),
            preset(
                f"{known}_mtt_1{end}",
                "MTT, one image per class",
                data,
                after=(experts, run_dir / "runs" / experts),
            ),
        ]
        found += rows
        if known == "mnist":
            for curriculum in ("", "_batch_shuffled", "_all_shuffled", "_none"):
                words = curriculum[1:].replace("_", " ") or "full"
                found.append(preset(f"mnist_gtn_4096{curriculum}", f"GTN, curriculum: {words}", data))
            found.append(preset("mnist_random", "DD, a hundred images for fresh LeNets", data))
    return found


def smoke_items(run_dir: Path) -> list[Item]:
    """A tiny agenda on digits, with an item that needs another."""
    tiny = ["--width=4", "--depth=1", "--num_eval_learners=2", "--num_baseline_learners=0"]
    experts = preset("digits_experts", "two experts", None, script="experts")
    after = preset(
        "digits_mtt", "MTT on them", None, after=("digits_experts", run_dir / "runs/digits_experts")
    )
    few = ["--num_experts=2", "--num_epochs=4", "--width=4", "--depth=1", "--group_size=1"]
    short = [*tiny, "--num_outer_steps=20", "--start_epochs=1", "--distill_epochs=2"]
    return [
        benchmark("gpu_evaluation", "evaluation", "two networks by vmap, and one after another", "--smoke"),
        experts._replace(command=[*experts.command, *few]),
        after._replace(command=[*after.command, *short]),
    ]


NAMES = tuple(item.name for item in items(None, Path()))
