"""Claims about arms, held against a study's numbers by one rule, the same for every claim.

A claim says that arm A beats arm B in some column by more than a margin. Differences are paired
by seed; their mean has a 95 % Student t interval. The whole interval beyond the margin: the claim
holds. All of it on the other side: it does not hold. Neither: it is open, and more seeds are
needed. A claim may also name a target, which the mean has to reach for the claim to hold; it does
not hold if the whole interval lies below the target, and is open in between. Where a study lacks an
arm, or has fewer than two seeds of both, it is not testable here.
"""

from collections.abc import Mapping, Sequence
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
        column: of the table, such as `"near AUROC"`; FPR95 and seconds are better when lower.
        margin: gain that is claimed, as a fraction; negative for "loses no more than".
        target: that the mean gain has to reach, as a fraction.
        relative: differences are divided by the baseline's mean.
        section: of `study.json`, where both arms are: `"arms"` or the name of an ablation.
    """

    text: str
    arm: str
    baseline: str
    column: str
    margin: float = 0.0
    target: float | None = None
    relative: bool = False
    section: str = "arms"

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return -1 if "FPR" in self.column or "seconds" in self.column else 1


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
    Claim("MICL sharpens the boundary: fewer false alarms on near-OOD",
          "oal-paper", "kd", "near FPR95"),
    Claim("MICL as the released code runs it adds to distillation on near-OOD",
          "oal-as-released", "kd", "near AUROC"),
    Claim("ID accuracy is kept (no more than one point lost to plain training)",
          "oal-paper", "ce", "ID acc", -0.01),
    Claim("Distillation keeps ID accuracy (no more than 0.3 points lost)",
          "kd", "ce", "ID acc", -0.003),
    Claim("Synthesised outliers do more than Gaussian noise in their place",
          "oal-paper", "oal-noise", "near AUROC"),
    Claim("Outliers in the latent space do more than the same ones as pictures",
          "oal-paper", "oe-pixels", "near AUROC"),
    Claim("... where ID images are decoded too", "oal-paper", "oe-pixels-matched", "near AUROC"),
    Claim("... and where they reach the head as latents", "oal-latent", "oe-pixels-matched",
          "near AUROC"),
)  # fmt: skip

PIECES = (
    Claim("Latent outliers do more than pictures where both have the teacher's distance",
          "oal-latent", "oe-pixels-matched+distance=knn", "near AUROC", section="decoding"),
    Claim("Latent outliers take less training time than pictures", "oal-paper", "oe-pixels",
          "training seconds", relative=True),
    Claim("Few outliers suffice: 30 latents lose no more than one point to 300",
          "oal-latent+diffusion.n_latents=30", "oal-latent", "near AUROC", -0.01,
          section="number"),
    Claim("k-NN outliers add to diffusion outliers", "oal-paper",
          "oal-paper+weights.micl_knn=0.0", "near AUROC", section="kinds"),
    Claim("Diffusion outliers add to k-NN outliers", "oal-paper",
          "oal-paper+weights.micl_diffusion=0.0", "near AUROC", section="kinds"),
    Claim("Keeping the farthest candidates beats random ones", "oal-paper",
          "oal-paper+outliers=random", "near AUROC", section="selection"),
    Claim("It leads the OpenOOD v1.5 boards of CIFAR and ImageNet-200",
          "OAL at paper size", "the boards' other rows", "near AUROC"),
)  # fmt: skip

TARGETS = (
    Claim("oal: near-OOD AUROC 5 points over ce", "oal", "ce", "near AUROC", target=0.05),
    Claim("... by the score that validation-OOD prefers for each student", "oal", "ce",
          "near AUROC, own score", target=0.05),
    Claim("... by entropy for both", "oal", "ce", "near AUROC, entropy", target=0.05),
    Claim("... 3 points over kd", "oal", "kd", "near AUROC", target=0.03),
    Claim("... 3 points over kd, by entropy for both", "oal", "kd", "near AUROC, entropy",
          target=0.03),
    Claim("... 3 points over oal-paper", "oal", "oal-paper", "near AUROC", target=0.03),
    Claim("... not below the oracle oe-real, to half a point", "oal", "oe-real", "near AUROC",
          -0.005),
    Claim("... not below oe-pixels-matched, to half a point", "oal", "oe-pixels-matched",
          "near AUROC", -0.005),
    Claim("oal: trains faster than oe-pixels-matched", "oal", "oe-pixels-matched",
          "training seconds", relative=True),
    Claim("oal: near FPR95 15 % below that of ce", "oal", "ce", "near FPR95", target=0.15,
          relative=True),
    Claim("oal: far-OOD AUROC 3 points over ce", "oal", "ce", "far AUROC", target=0.03),
    Claim("... by the score that validation-OOD prefers for each student", "oal", "ce",
          "far AUROC, own score", target=0.03),
    Claim("oal: ID accuracy within 0.3 points of kd", "oal", "kd", "ID acc", -0.003),
    Claim("oal: what its teacher knows adds to distillation", "kd-distance", "kd", "near AUROC"),
    Claim("oal: the teacher's answers on other images add to that", "oal", "kd-distance",
          "near AUROC"),
    Claim("... on far-OOD", "oal", "kd-distance", "far AUROC"),
    Claim("... more than its answers on as many ID images", "oal", "kd-distance-twice",
          "near AUROC"),
    Claim("... more than its answers on as many ID images, by entropy for both", "oal",
          "kd-distance-twice", "near AUROC, entropy"),
    Claim("... more than its answers on as many ID images: fewer false alarms", "oal",
          "kd-distance-twice", "near FPR95"),
    Claim("... more than its answers on as many ID images, on far-OOD", "oal",
          "kd-distance-twice", "far AUROC"),
    Claim("oal: its outliers add to halves of ID images", "oal", "oal+answers=halves",
          "near AUROC", section="asked"),
    Claim("... more than halves of ID latents, decoded as they are, in their place", "oal",
          "oal+outliers=halves", "near AUROC", section="asked"),
    Claim("... more than noise in their place", "oal", "oal+outliers=noise", "near AUROC",
          section="asked"),
    Claim("oal: hedged by their distance the teacher's answers teach more", "oal", "oal+hedge=0",
          "near AUROC", section="hedge"),
    Claim("... by entropy for both", "oal", "oal+hedge=0", "near AUROC, entropy",
          section="hedge"),
    Claim("... on far-OOD", "oal", "oal+hedge=0", "far AUROC", section="hedge"),
    Claim("... more than on as many ID images, hedged too", "oal", "kd-distance-twice+hedge=4",
          "near AUROC", section="hedge"),
    Claim("... more than on as many ID images, hedged too, by entropy for both", "oal",
          "kd-distance-twice+hedge=4", "near AUROC, entropy", section="hedge"),
    Claim("oal: outlier exposure on latents would add to it, unhedged",
          "oal+hedge=0+exposure=latent", "oal+hedge=0", "near AUROC", section="answers"),
    Claim("oal-latent: its latents add to what its teacher knows", "oal-latent", "kd-distance",
          "near AUROC"),
    Claim("... on far-OOD", "oal-latent", "kd-distance", "far AUROC"),
    Claim("oal-latent: its outliers do more than halves of ID latents", "oal-latent",
          "oal-latent+outliers=halves", "near AUROC", section="synthesis"),
    Claim("oal-latent: its outliers add to its encoded ID images", "oal-latent",
          "oal-latent+weights.latent_exposure=0.0", "near AUROC", section="synthesis"),
    Claim("oal-latent: its outliers do more than noise in their place", "oal-latent",
          "oal-latent+outliers=noise", "near AUROC", section="synthesis"),
)  # fmt: skip


def differences(
    table: Table, arm: str, baseline: str, column: str, *, relative: bool = False
) -> PairedTest | None:
    """Paired test of arm - baseline over the seeds that both have.

    None with fewer than two of them, where a value is None (no set of that group was at hand) or
    an older study has no such column, and where a relative difference would be one to zero.
    """
    if any(column not in table.get(a, {}) for a in (arm, baseline)):
        return None
    ours, theirs = (
        dict(zip(table[a][column]["seeds"], table[a][column]["values"], strict=True))
        for a in (arm, baseline)
    )
    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2 or None in [x[s] for x in (ours, theirs) for s in seeds]:
        return None
    unit = sum(theirs[s] for s in seeds) / len(seeds) if relative else 1.0
    if unit == 0:
        return None
    return paired_test([ours[s] / unit for s in seeds], [theirs[s] / unit for s in seeds])


def in_points(test: PairedTest | None) -> str:
    """Mean difference and 95 % interval in hundredths: `"+1.2 [+0.3, +2.1]"`; a dash for none."""
    if test is None:
        return "–"
    mean, low, high = (100 * x for x in (test.mean_difference, test.low, test.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def verdict(claim: Claim, table: Table) -> tuple[str, str]:
    """What the table says of a claim: one of four phrases, and the numbers behind it."""
    test = differences(table, claim.arm, claim.baseline, claim.column, relative=claim.relative)
    if test is None:
        missing = [a for a in (claim.arm, claim.baseline) if a not in table]
        return UNTESTABLE, f"no runs of {', '.join(missing)}" if missing else "too few seeds"
    low, high = sorted((claim.sign * test.low, claim.sign * test.high))
    aim = claim.margin if claim.target is None else claim.target
    reached = claim.target is None or claim.sign * test.mean_difference >= claim.target
    phrase = HOLDS if low > claim.margin and reached else FAILS if high < aim else OPEN
    numbers = (
        f"{in_points(test)} {'%' if claim.relative else 'points'} of {claim.column}, {test.n} seeds"
    )
    return phrase, numbers


def on_gpu(section: Mapping) -> bool:
    """Whether trainings shared a GPU; the seconds of an arm then depend on its neighbours."""
    return "cuda" in section.get("machine", "")


def rows(study: Mapping, claims: Sequence[Claim] = CLAIMS + PIECES + TARGETS) -> list[list[str]]:
    """Claim, experiment, number with interval and verdict, from what `study.json` holds."""
    lines = []
    for claim in claims:
        part = study if claim.section == "arms" else study.get("ablations", {}).get(claim.section)
        part = part or {}
        table = part.get("table", {})
        if "seconds" in claim.column and on_gpu(part):
            phrase, numbers = UNTESTABLE, "seconds of processes that shared a GPU"
        else:
            phrase, numbers = verdict(claim, table)
        lines.append([claim.text, f"`{claim.arm}` − `{claim.baseline}`", numbers, phrase])
    return lines


def markdown(study: Mapping, claims: Sequence[Claim] = CLAIMS + PIECES + TARGETS) -> str:
    """The claims table in Markdown."""
    header = ["claim", "experiment", "difference [95 % interval]", "verdict"]
    lines = [header, ["---"] * 4, *rows(study, claims)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
