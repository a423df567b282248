"""Where the learners of an outer step come from.

A new population is one new file with its factory and its `SOURCE`, and one line in `POPULATIONS`.
"""

from jaxdistill.core.registry import Registry
from jaxdistill.populations.ages import ages
from jaxdistill.populations.experts import experts
from jaxdistill.populations.fixed import fixed
from jaxdistill.populations.fresh import fresh
from jaxdistill.populations.persistent import persistent
from jaxdistill.populations.pretrained import fixed_pretrained, pretrained
from jaxdistill.populations.source import Source

__all__ = [
    "POPULATIONS",
    "Source",
    "ages",
    "experts",
    "fixed",
    "fixed_pretrained",
    "fresh",
    "persistent",
    "pretrained",
]

POPULATIONS: Registry[Source] = Registry(
    "population",
    {
        "ages": "jaxdistill.populations.ages:SOURCE",
        "experts": "jaxdistill.populations.experts:SOURCE",
        "fixed": "jaxdistill.populations.fixed:SOURCE",
        "fixed_pretrained": "jaxdistill.populations.pretrained:FIXED_PRETRAINED",
        "fresh": "jaxdistill.populations.fresh:SOURCE",
        "persistent": "jaxdistill.populations.persistent:SOURCE",
        "pretrained": "jaxdistill.populations.pretrained:PRETRAINED",
    },
)
