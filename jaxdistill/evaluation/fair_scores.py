"""Scores of synthetic data that soft labels or augmentation alone cannot raise."""

import math

from jaxdistill.core.checks import fail


def label_robust_score(
    *, full_data: float, hard_labels: float, own_labels: float, random_real: float, weight: float = 0.5
) -> float:
    r"""Quality of the images without the contribution of their labels (LRS, label-robust score).

    .. math:: \alpha = w \, \mathrm{IOR} - (1 - w) \, \mathrm{HLR}, \quad
       \mathrm{LRS} = \frac{e^{\alpha} - e^{-1}}{e - e^{-1}}

    with hard label recovery HLR = `full_data` - `hard_labels` and improvement over random IOR = `own_labels`
    - `random_real`. It is 1 / (e + 1) = 0.27 where both are zero.

    Args:
      full_data: test accuracy of networks trained on the whole set with hard labels, in [0, 1].
      hard_labels: of networks trained on the synthetic images with their labels made hard.
      own_labels: of networks trained on the synthetic images as they are.
      random_real: of networks trained on as many random real images, by the same training as `own_labels`.
      weight: w, in [0, 1].

    Returns:
      The score, in [0, 1]; more is better.

    Raises:
      UserError: an accuracy or the weight outside of [0, 1].

    Example:
      >>> round(label_robust_score(full_data=0.5, hard_labels=0.5, own_labels=0.5, random_real=0.5), 4)
      0.2689

    References: Li et al. 2025, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation".
    """
    _check(
        full_data=full_data,
        hard_labels=hard_labels,
        own_labels=own_labels,
        random_real=random_real,
        weight=weight,
    )
    return _score(weight * (own_labels - random_real) - (1 - weight) * (full_data - hard_labels))


def augmentation_robust_score(
    *,
    augmented: float,
    random_augmented: float,
    plain: float,
    random_plain: float,
    weight: float = 0.5,
) -> float:
    r"""Advantage of the images over random real images, with and without augmentation in training (ARS).

    .. math:: \gamma (a_{\mathrm{syn}} - a_{\mathrm{rand}})
       + (1 - \gamma) (p_{\mathrm{syn}} - p_{\mathrm{rand}})

    mapped as in `label_robust_score`.

    Args:
      augmented: test accuracy of networks trained on the synthetic images under augmentation, in [0, 1].
      random_augmented: likewise, on as many random real images.
      plain: of networks trained on the synthetic images without augmentation.
      random_plain: likewise, on random real images.
      weight: gamma, in [0, 1].

    Returns:
      The score, in [0, 1]; more is better.

    Raises:
      UserError: an accuracy or the weight outside of [0, 1].

    References: Li et al. 2025, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation".
    """
    _check(
        augmented=augmented,
        random_augmented=random_augmented,
        plain=plain,
        random_plain=random_plain,
        weight=weight,
    )
    return _score(weight * (augmented - random_augmented) + (1 - weight) * (plain - random_plain))


def _score(advantage: float) -> float:
    """[-1, 1] to [0, 1]."""
    return (math.exp(advantage) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise fail("fair scores", f"{name} in [0, 1]", value)
