"""Saved configs of this version or of an older version."""

from collections.abc import Mapping
from typing import Any, TypeVar

from jaxdistill.config.option import Options
from jaxdistill.config.owners import brought
from jaxdistill.config.table import Config
from jaxdistill.core.checks import fail

RENAMED: dict[str, str] = {}
"""Old names of options, and their present names."""
OF_OTHERS: dict[str, str] = {
    "attack_class": "attack",
    "num_networks": "pretrain",
    "num_experts": "experts",
    "contenders": "equal_time",
    "estimators": "memory_runtime",
    "preset": "study",
    "factors": "study.search",
    "num_candidates": "nas",
}
"""Option to script: names the script of a folder whose `config.json` has no `experiment` (older versions)."""
DIGESTS = ("dataset_sha256", "pool_sha256", "experts_sha256", "learner_sha256")
"""Fields of an identity that are no options."""
C = TypeVar("C", bound=Options)


def experiment_of(stored: Mapping[str, Any]) -> str:
    """The script that a run's folder belongs to, from the content of its `config.json`."""
    if "experiment" in stored:
        return str(stored["experiment"])
    config = stored.get("config") or {}
    named = [script for field, script in OF_OTHERS.items() if field in config]
    return named[0] if named else "distill" if "method" in config else "unknown"


def config_from(saved: Mapping[str, Any], where: str, cls: type[C] = Config) -> C:
    """The saved config, with every option chosen.

    Args:
      saved: option to value, as in `config.json`; older versions wrote null for an unset one.
      where: the file, for errors.
      cls: the class of the options; `Config`, of a distillation, when left out.

    Raises:
      UserError: options that this version does not know; names them.
    """
    table = cls.options()
    named = {RENAMED.get(name, name): value for name, value in saved.items() if name not in DIGESTS}
    kept: dict[str, Any] = {
        n: v for n, v in named.items() if n not in table or v is not None or table[n].optional
    }
    others = [name for name in kept if name not in table]
    known = brought(cls, {n: v for n, v in kept.items() if n in table}) if others else {}
    unknown = [name for name in others if name not in known]
    if unknown:
        expected = "options that this version knows"
        raise fail(where, expected, ", ".join(sorted(unknown)), "Another version wrote the run.")
    return cls(**kept)


def chosen_of(config: Options) -> dict[str, Any]:
    """What the user chose, without folders and devices; `config.json` has it beside the resolved config."""
    from jaxdistill.config.table import PLACES

    return {name: value for name, value in config.chosen().items() if name not in PLACES}
