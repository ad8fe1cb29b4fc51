"""The claims table: what is claimed, the experiment that tests it, the number, the verdict.

It is made from `study.json` alone. Every number is a difference between two arms, paired by seed,
with its 95 % t-interval. The rule for the verdict is the same for every claim and written here:

- a claim of a gain ("higher", at least m points, m >= 0) **holds** if the mean difference is at
  least m and the interval is clear of zero on that side;
- a claim of no loss (at most m points lost) **holds** if the whole interval is above -m;
- otherwise it **does not hold**, and where the interval contains zero the table says so: these
  seeds then saw no difference, which is less than to show that there is none;
- what needs data, models or hardware that the study lacks is **not testable here**.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from oal_lite.metrics import PairedTest, paired_test

Table = Mapping[str, Mapping[str, Mapping[str, list]]]  # arm, column -> values and seeds

HOLDS, FAILS, UNTESTABLE = "holds", "does not hold", "not testable here"
LOWER_IS_BETTER = ("near FPR95", "far FPR95", "training seconds")


@dataclass(frozen=True)
class Claim:
    """One claim: arm `a` is better than arm `b`.

    Attributes:
        text: the claim in words.
        a: label of the arm of which something is claimed; empty if nothing here can test it.
        b: label of the arm that it is compared with.
        column: of the study's table. Where lower is better, a gain is a fall.
        margin: in percentage points: the gain that is claimed; negative, the loss that is allowed.
        relative: the margin is in percent of b's mean instead.
        section: of `study.json`, where both arms are.
    """

    text: str
    a: str = ""
    b: str = ""
    column: str = "near AUROC"
    margin: float = 0.0
    relative: bool = False
    section: str = "arms"


PAPER = (
    Claim("OAL detects OOD better than cross-entropy", "oal-paper", "ce"),
    Claim("OAL detects OOD better than distillation alone", "oal-paper", "kd"),
    Claim("the same on far-OOD", "oal-paper", "kd", "far AUROC"),
    Claim("MICL sharpens the boundary: fewer false alarms", "oal-paper", "kd", "near FPR95"),
    Claim("OAL as released detects OOD better than distillation", "oal-as-released", "kd"),
    Claim("the outliers' synthesis matters: better than noise", "oal-paper", "oal-noise"),
    Claim("latent outliers are more robust than pixel ones", "oal-paper", "oe-pixels"),
    Claim("the same, where ID images are decoded too", "oal-paper", "oe-pixels-matched"),
    Claim("latent outliers cost less training time", "oal-paper", "oe-pixels", "training seconds",
          relative=True),
    Claim("few outliers suffice: 30 lose at most 1 point to 300",
          "oal+diffusion.n_latents=30", "oal", margin=-1.0, section="number"),
    Claim("k-NN and diffusion outliers together beat diffusion ones", "oal-paper",
          "oal-paper+weights.micl_knn=0.0", section="kinds"),
    Claim("k-NN and diffusion outliers together beat k-NN ones", "oal-paper",
          "oal-paper+weights.micl_diffusion=0.0", section="kinds"),
    Claim("distillation keeps ID accuracy, to 0.3 points", "kd", "ce", "ID acc", margin=-0.3),
    Claim("OAL leads the OpenOOD v1.5 boards of CIFAR-10, CIFAR-100 and ImageNet-200"),
)  # fmt: skip

OURS = (
    Claim("oal: near-OOD AUROC at least 5 points over ce", "oal", "ce", margin=5),
    Claim("oal: at least 3 points over kd", "oal", "kd", margin=3),
    Claim("oal: at least 3 points over oal-paper", "oal", "oal-paper", margin=3),
    Claim("oal: not below the oracle oe-real, to half a point", "oal", "oe-real", margin=-0.5),
    Claim("oal: not below oe-pixels-matched, to half a point", "oal", "oe-pixels-matched",
          margin=-0.5),
    Claim("oal: trains faster than oe-pixels-matched", "oal", "oe-pixels-matched",
          "training seconds", relative=True),
    Claim("oal: near FPR95 at least 15 % below ce", "oal", "ce", "near FPR95", 15, relative=True),
    Claim("oal: far-OOD AUROC at least 3 points over ce", "oal", "ce", "far AUROC", margin=3),
    Claim("oal: ID accuracy within 0.3 points of kd", "oal", "kd", "ID acc", margin=-0.3),
    Claim("oal: its outliers matter, not only the encoded ID images", "oal",
          "oal+weights.latent_exposure=0.0", section="synthesis"),
    Claim("oal: its outliers are better than noise", "oal", "oal+outliers=noise",
          section="synthesis"),
)  # fmt: skip


def pairs(table: Table, a: str, b: str, column: str) -> tuple[list[float], list[float]] | None:
    """Values of two arms at the seeds that both have; None with fewer than two such seeds."""
    if not {a, b} <= set(table):
        return None
    ours, theirs = (
        dict(zip(cell["seeds"], cell["values"], strict=True))
        for cell in (table[arm][column] for arm in (a, b))
    )
    seeds = sorted(set(ours) & set(theirs))
    return ([ours[s] for s in seeds], [theirs[s] for s in seeds]) if len(seeds) > 1 else None


def differences(table: Table, a: str, b: str, column: str) -> PairedTest | None:
    """Paired test of a - b in one column of a table; None where the table lacks the runs."""
    paired = pairs(table, a, b, column)
    return paired and paired_test(*paired)


def gain(claim: Claim, study: Mapping) -> PairedTest | None:
    """The claimed gain of a over b, paired by seed; None where the study lacks the runs.

    In percentage points, or in percent of b's mean; positive is better in every column.
    """
    table = study["sections"].get(claim.section, {}).get("table", {})
    paired = pairs(table, claim.a, claim.b, claim.column)
    if paired is None:
        return None
    ours, theirs = paired
    unit = 100 / (sum(theirs) / len(theirs)) if claim.relative else 100
    unit = -unit if claim.column in LOWER_IS_BETTER else unit
    return paired_test([unit * x for x in ours], [unit * x for x in theirs])


def verdict(claim: Claim, test: PairedTest) -> str:
    """Apply the rule at the head of this module."""
    if claim.margin < 0:
        fine = test.low > claim.margin
    else:
        fine = test.mean_difference >= claim.margin and test.low > 0
    if fine:
        return HOLDS
    return f"{FAILS} (interval holds zero)" if test.low <= 0 <= test.high else FAILS


def rows(study: Mapping, claims: tuple[Claim, ...] = PAPER + OURS) -> list[list[str]]:
    """One row per claim: text, experiment, number with interval, verdict."""
    lines = []
    for claim in claims:
        if not claim.a:
            lines.append([claim.text, "needs its data and models", "", UNTESTABLE])
            continue
        better = "fall of " if claim.column in LOWER_IS_BETTER else ""
        unit = "%" if claim.relative else "points"
        experiment = f"`{claim.a}` − `{claim.b}`: {better}{claim.column}, {unit}"
        test = gain(claim, study)
        if test is None:
            lines.append([claim.text, experiment, "", "not run"])
            continue
        number = f"{test.mean_difference:+.1f} [{test.low:+.1f}, {test.high:+.1f}]"
        lines.append([claim.text, experiment, number, verdict(claim, test)])
    return lines


def markdown(study: Mapping, claims: tuple[Claim, ...] = PAPER + OURS) -> str:
    """The claims table in Markdown."""
    header = ["claim", "experiment", "gain [95 % interval]", "verdict"]
    lines = [header, ["---", "---", "---:", "---"], *rows(study, claims)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
