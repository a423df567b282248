"""Published methods: recipes that compose teacher, learner, solve, objective and population.

A new method is one new file with its factory and its `RECIPE`, and one line in `METHODS`.
"""

from jaxdistill.core.registry import Registry
from jaxdistill.methods.recipe import Recipe

METHODS: Registry[Recipe] = Registry(
    "method",
    {
        "dc": "jaxdistill.methods.dc:RECIPE",
        "dd": "jaxdistill.methods.dd:RECIPE",
        "dm": "jaxdistill.methods.dm:RECIPE",
        "dsa": "jaxdistill.methods.dsa:RECIPE",
        "frepo": "jaxdistill.methods.frepo:RECIPE",
        "gtn": "jaxdistill.methods.gtn:RECIPE",
        "idc": "jaxdistill.methods.idc:RECIPE",
        "kip": "jaxdistill.methods.kip:RECIPE",
        "mtt": "jaxdistill.methods.mtt:RECIPE",
        "rat": "jaxdistill.methods.rat:RECIPE",
        "rcig": "jaxdistill.methods.rcig:RECIPE",
    },
)
