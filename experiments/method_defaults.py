"""What a method brings where nobody chose: its paper's settings."""

from typing import Any

MATCHING = {
    "teacher": "images",
    "distill_epochs": 1,
    "learner": "convnet",
    "num_learners": 1,
    "outer_optimizer": "sgd",
    "outer_momentum": 0.5,
    "schedule": "constant",
    "clip": 0.0,
}
CONDENSATION = MATCHING | {"population": "persistent", "outer_learning_rate": 0.1, "num_outer_steps": 1000}
BY_METHOD: dict[str, dict[str, Any]] = {
    "dc": CONDENSATION | {"augment": []},
    "dd": {},
    "dm": MATCHING | {"start": "real", "outer_learning_rate": 1.0, "num_outer_steps": 20000},
    "dsa": CONDENSATION | {"start": "real"},
    "mtt": MATCHING
    | {
        "start": "real",
        "distill_epochs": 20,
        "population": "experts",
        "inner_learning_rate": 0.01,
        "learned": ["learning_rate"],
        "per_step": False,
        "positive": "projected",
        "remat": "step",
        "outer_learning_rate": 1000.0,
        "hyper_learning_rate": 1e-5,
        "max_inner_learning_rate": 0.0,
        "num_outer_steps": 5000,
    },
    "gtn": {
        "teacher": "generator",
        "batch_size": 128,
        "distill_steps": 32,
        "distill_epochs": 1,
        "learner": "gtn",
        "inner_learning_rate": 0.02,
        "inner_momentum": 0.5,
        "learned": ["learning_rate", "momentum"],
        "positive": "exp",
        "num_outer_steps": 2000,
        "outer_learning_rate": 0.02,
        "outer_b1": 0.9,
        "schedule_end": 0.1,
        "real_batch_size": 128,
        "num_learners": 1,
        "clip": 0.0,
        "max_inner_learning_rate": 0.0,
    },
}
"""Defaults of a method where they are others. Those of the teacher (learner) hold with the method's own
teacher (learner) alone; those that depend on the gradient, with gradients through training. The outer steps
of dc and dsa are for networks that are matched once; every further match of a network adds as many.
Their outer learning rate is 0.01 with mlp; that of dm is 10 for 100 images per class and more."""
