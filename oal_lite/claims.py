"""Claims about arms, held against a study's numbers by one rule, the same for every claim.

A claim says that arm A beats arm B in some column by more than a margin. Differences are paired
by seed; their mean has a 95 % Student t interval. The whole interval beyond the margin: the claim
holds. All of it on the other side: it does not hold. Neither: it is open, and more seeds are
needed. Where a study lacks an arm, or has fewer than two seeds of both, it is not testable here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from oal_lite.metrics import PairedTest, paired_test

Table = Mapping[str, Mapping[str, Mapping[str, list]]]  # arm, column -> values and seeds

HOLDS, FAILS, OPEN = "holds", "does not hold", "open: the interval holds both answers"
UNTESTABLE = "not testable here"


@dataclass(frozen=True)
class Claim:
    """One sentence, and what would have to be true of a study's table for it to hold.

    Attributes:
        text: the claim.
        arm, baseline: difference arm - baseline is looked at.
        column: of the table, such as `"near AUROC"`; FPR95 is better when lower.
        margin: gain that is claimed, as a fraction; negative for "loses no more than".
    """

    text: str
    arm: str
    baseline: str
    column: str
    margin: float = 0.0

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return -1 if "FPR" in self.column else 1


CLAIMS = (
    Claim("OAL as its text says detects near-OOD better than plain training",
          "oal-paper", "ce", "near AUROC"),
    Claim("... and far-OOD", "oal-paper", "ce", "far AUROC"),
    Claim("Distillation alone detects near-OOD better than plain training",
          "kd", "ce", "near AUROC"),
    Claim("... and far-OOD", "kd", "ce", "far AUROC"),
    Claim("The outliers and MICL add to distillation on near-OOD",
          "oal-paper", "kd", "near AUROC"),
    Claim("... and on far-OOD", "oal-paper", "kd", "far AUROC"),
    Claim("MICL as the released code runs it adds to distillation on near-OOD",
          "oal-as-released", "kd", "near AUROC"),
    Claim("ID accuracy is kept (no more than one point lost to plain training)",
          "oal-paper", "ce", "ID acc", -0.01),
    Claim("Synthesised outliers do more than Gaussian noise in their place",
          "oal-paper", "oal-noise", "near AUROC"),
    Claim("Outliers in the latent space do more than the same ones as pictures",
          "oal-paper", "oe-pixels", "near AUROC"),
)  # fmt: skip


def differences(table: Table, arm: str, baseline: str, column: str) -> PairedTest | None:
    """Paired test of arm - baseline over the seeds that both have; None with fewer than two."""
    if arm not in table or baseline not in table:
        return None
    ours, theirs = (
        dict(zip(table[a][column]["seeds"], table[a][column]["values"], strict=True))
        for a in (arm, baseline)
    )
    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2:
        return None
    return paired_test([ours[s] for s in seeds], [theirs[s] for s in seeds])


def verdict(claim: Claim, table: Table) -> tuple[str, str]:
    """What the table says of a claim: one of four phrases, and the numbers behind it."""
    test = differences(table, claim.arm, claim.baseline, claim.column)
    if test is None:
        missing = [a for a in (claim.arm, claim.baseline) if a not in table]
        return UNTESTABLE, f"no runs of {', '.join(missing)}" if missing else "too few seeds"
    low, high = sorted((claim.sign * test.low, claim.sign * test.high))
    phrase = HOLDS if low > claim.margin else FAILS if high < claim.margin else OPEN
    numbers = (
        f"{100 * test.mean_difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}] "
        f"points of {claim.column}, {test.n} seeds"
    )
    return phrase, numbers
