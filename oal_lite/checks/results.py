"""Exercise checks of notebook 07."""

from collections.abc import Callable, Mapping

from oal_lite.metrics import paired_test


def check_group_mean(group_mean: Callable[[Mapping], float]) -> str:
    """Check `group_mean(sets)`: mean AUROC of {set: {"auroc": ..., "n_ood": ...}}, unweighted.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    sets = {"large": {"auroc": 0.9, "n_ood": 900}, "small": {"auroc": 0.6, "n_ood": 100}}
    got = group_mean(sets)
    assert got is not None, "group_mean returns nothing; is there a return?"
    assert abs(got - 0.87) > 1e-9, (
        "that is weighted by the number of images; OpenOOD counts every set the same"
    )
    assert abs(got - 0.75) < 1e-9, f"sets with 0.9 and 0.6: expected 0.75, got {got}"
    return "Right: a set of 100 images counts as much as one of 900."


def check_paired(paired: Callable) -> str:
    """Check `paired(a, b)`: mean difference and both ends of its 95 % t-interval, by seed.

    Raises:
        AssertionError: with a hint at what is wrong.
    """
    a, b = [0.84, 0.88, 0.81, 0.86], [0.83, 0.86, 0.80, 0.84]
    test = paired_test(a, b)
    got = paired(a, b)
    assert got is not None, "paired returns nothing; is there a return?"
    mean, low, high = map(float, got)
    assert abs(mean - test.mean_difference) < 1e-9, (
        f"mean of a - b: expected {test.mean_difference:.4f}, got {mean:.4f}"
    )
    assert high - low < 0.03, (
        f"your interval is {high - low:.3f} wide. Take the differences seed by seed first: what "
        "both arms share, a good or a bad seed, then drops out"
    )
    assert abs(low - test.low) < 1e-6 and abs(high - test.high) < 1e-6, (
        f"expected [{test.low:.5f}, {test.high:.5f}], got [{low:.5f}, {high:.5f}]. Standard error "
        "s / sqrt(n) with s over n - 1; Student t with n - 1 degrees of freedom"
    )
    return "Right: the same interval as oal_lite.metrics.paired_test."
