"""Exercise checks of notebook 07."""

import statistics
from collections.abc import Callable, Mapping

from scipy import stats

from oal_lite.checks.answers import compare, exercise
from oal_lite.metrics import paired_test


@exercise
def check_group_mean(group_mean: Callable[[Mapping], float]) -> str:
    """`group_mean(sets)`: mean AUROC of {set: {"auroc": ..., "n_ood": ...}}, unweighted."""
    sets = {"large": {"auroc": 0.9, "n_ood": 900}, "small": {"auroc": 0.6, "n_ood": 100}}
    compare(
        group_mean(sets), 0.75, "the mean of sets with 0.9 and 0.6",
        slips={
            "that is weighted by the number of images; OpenOOD counts every set the same.": 0.87,
            "that is the sum; divide by the number of sets.": 1.5,
        },
    )  # fmt: skip
    more = {name: {"auroc": x, "n_ood": 10} for name, x in zip("abc", (0.2, 0.3, 1.0), strict=True)}
    compare(group_mean(more), 0.5, "the mean of sets with 0.2, 0.3 and 1")
    return "Right: a set of 100 images counts as much as one of 900."


@exercise
def check_paired(paired: Callable) -> str:
    """`paired(a, b)`: mean difference and both ends of its 95 % t-interval, by seed."""
    a, b = [0.84, 0.88, 0.81, 0.86], [0.83, 0.86, 0.80, 0.84]
    test = paired_test(a, b)
    mean, d = test.mean_difference, [x - y for x, y in zip(a, b, strict=True)]

    def around(spread: float, quantile: float, by: float = 2) -> tuple[float, float, float]:
        return mean, mean - quantile * spread / by, mean + quantile * spread / by

    unpaired = (statistics.variance(a) + statistics.variance(b)) ** 0.5
    t3, t6, normal = stats.t.ppf(0.975, 3), stats.t.ppf(0.975, 6), stats.norm.ppf(0.975)
    seeds = (
        "Take the differences seed by seed first: what both arms share, a good or a bad seed, "
        "then drops out."
    )
    compare(
        paired(a, b), (mean, test.low, test.high), "(mean, low, high)", tolerance=1e-5,
        slips={
            "the difference is a − b.": (-mean, -test.high, -test.low),
            seeds: around(unpaired, t6),
            f"that takes the two lists apart. {seeds}": around(unpaired, t3),
            f"that takes the two lists as independent. {seeds}": around(unpaired, normal),
            "s divides by n − 1 (`ddof=1`), not by n.": around(statistics.pstdev(d), t3),
            "s divides by n − 1 (`ddof=1`), and the quantile is Student's t, not 1.96.":
                around(statistics.pstdev(d), normal),
            "with few seeds the quantile is Student's t with n − 1 degrees of freedom, not 1.96.":
                around(statistics.stdev(d), normal),
            "divide s by the root of n: it is the mean whose interval is asked for.":
                around(statistics.stdev(d), t3, by=1),
            "a 95 % interval leaves 2.5 % on each side: the quantile is at 0.975.":
                around(statistics.stdev(d), stats.t.ppf(0.95, 3)),
            "Student's t has n − 1 degrees of freedom.":
                around(statistics.stdev(d), stats.t.ppf(0.975, 4)),
            "return three numbers: mean, low, high.": mean,
        },
    )  # fmt: skip
    more = [0.7, 0.6, 0.9, 0.8, 0.5], [0.6, 0.6, 0.7, 0.8, 0.6]
    five = paired_test(*more)
    compare(
        paired(*more), (five.mean_difference, five.low, five.high),
        "(mean, low, high) of five seeds", tolerance=1e-5,
    )  # fmt: skip
    return "Right: the same interval as oal_lite.metrics.paired_test."
