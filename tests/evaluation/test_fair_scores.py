"""DD-Ranking's scores against values computed by hand."""

import pytest
from helpers import message

from jaxdistill.core.checks import UserError
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score

EQUAL = {"full_data": 0.5, "hard_labels": 0.5, "own_labels": 0.5, "random_real": 0.5}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0.2689414),  # alpha 0: 1 / (e + 1)
        # IOR 0.2, HLR 0.1: alpha 0.05, (1.0512711 - 0.3678794) / 2.3504024
        ({"full_data": 0.9, "hard_labels": 0.8, "own_labels": 0.8, "random_real": 0.6}, 0.2907552),
        # soft labels bring 0.1: IOR 0.3, HLR 0.1: alpha 0.1, (1.1051709 - 0.3678794) / 2.3504024
        ({"full_data": 0.9, "hard_labels": 0.8, "own_labels": 0.9, "random_real": 0.6}, 0.3136873),
        ({"full_data": 0.0, "hard_labels": 1.0, "own_labels": 1.0, "random_real": 0.0}, 1.0),
        ({"full_data": 1.0, "hard_labels": 0.0, "own_labels": 0.0, "random_real": 1.0}, 0.0),
        # the weight is that of IOR: alpha = 0.8 * 0.2 - 0.2 * 0.1 = 0.14
        (
            {"full_data": 0.9, "hard_labels": 0.8, "own_labels": 0.8, "random_real": 0.6, "weight": 0.8},
            0.3328771,
        ),
    ],
)  # fmt: skip
def test_label_robust_score(changed, expected):
    assert label_robust_score(**EQUAL | changed) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("weight", "expected"),
    # 0.5 * 0.3 + 0.5 * 0.1 = 0.2: (1.2214028 - 0.3678794) / 2.3504024; then 0.3 and 0.1 alone
    [(0.5, 0.3631393), (1.0, 0.4177921), (0.0, 0.3136873)],
)
def test_augmentation_robust_score(weight, expected):
    found = augmentation_robust_score(
        augmented=0.8, random_augmented=0.5, plain=0.7, random_plain=0.6, weight=weight
    )
    assert found == pytest.approx(expected, abs=1e-6)


def test_shares_alone_are_accuracies():
    with pytest.raises(UserError) as error:
        label_robust_score(**EQUAL | {"own_labels": 92.0})
    assert "own_labels in [0, 1], got 92" in message(error)
    with pytest.raises(UserError):
        augmentation_robust_score(
            augmented=0.5, random_augmented=0.5, plain=0.5, random_plain=0.5, weight=1.5
        )
