"""The tables of the two READMEs, made from the files in `figures/`: `python -m oal_lite.readme`.

The README at the top has the levels, `figures/README.md` all the rest. They hold pairs of marks,
`<!-- name -->` and `<!-- /name -->`; what stands between them is written here and by nobody else,
so that a new study or benchmark cannot leave an old number behind.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from oal_lite import claims, command, report
from oal_lite.files import write_atomically

NONE = "No ablation has been run at full size yet."
NO_REAL = "Nothing has been run on real images yet."
NO_GPU = "`make bench` has not been run on a GPU yet."
# On real images, the larger first; "again" is with other models and seeds.
REAL = ("cifar10-scratch", "cifar10-medium", "cifar10-medium-again", "cifar10-small")
PAGES = ("README.md", "figures/README.md")


def tables(figures: Path) -> dict[str, str]:
    """Every table by the name of its marks, as "arms" or "claims".

    Raises:
        ValueError: for a damaged file, with its name.
    """
    names = ("study", *REAL)
    studies = {name: report.read_study(figures / f"{name}.json") for name in names}
    speeds = [_speed(figures / f"performance{on}.json") for on in ("", "-cuda")]
    try:
        parts = _tables(*speeds, **studies)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a file in {figures} is damaged or of another version ({type(error).__name__}: "
            f"{error}); make study.json and performance.json again, or restore them"
        ) from None
    for name, part in parts.items():
        if re.search(r"\b(nan|inf)\b", part):
            raise ValueError(
                f"a file in {figures} holds NaN or infinity, in the table {name!r}; restore it"
            )
    return parts


def _speed(path: Path) -> dict:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or run make bench") from None


def _tables(speed: Mapping, on_gpu: Mapping, *, study: Mapping, **others: Mapping) -> dict:
    real = [other for other in others.values() if other]
    arms, caption, *paired = study["markdown"].split("\n\n")
    seconds = {arm: cost["training, s"] for arm, cost in study["cost"].items()}
    fastest, slowest = (f(seconds, key=seconds.get) for f in (min, max))
    beside = ", beside others on one GPU" if claims.on_gpu(study) else ""
    made = (
        f"Made on {study['made']} ({study['machine']}). One training after the common start takes "
        f"{seconds[fastest]:.0f} s (`{fastest}`) to {seconds[slowest]:.0f} s (`{slowest}`){beside}."
    )
    return {
        "arms": f"{arms}\n\n{caption} {made}",
        "paired": paired[0] if paired else "One seed has no interval.",
        "scores": _scores(study),
        "claims": claims.markdown(study),
        "ablations": "\n\n".join(map(_ablation, study["ablations"].values())) or NONE,
        "real": next((_levels(study) for study in real if "markdown" in study), NO_REAL),
        "all real": "\n\n".join(map(_real, real)) or NO_REAL,
        "speed": _ratios(speed) + "\n\n" + _measured(speed),
        "limits": _limits(speed) + "\n\n" + _measured(speed),
        "on a GPU": _gpu(on_gpu) if on_gpu else NO_GPU,
    }


def _scores(study: Mapping) -> str:
    """Near AUROC by every score; near and far by the one that validation-OOD chooses."""
    names = list(study["runs"][0]["metrics"])
    head = ["near AUROC, %", *names, "own score", "far, own score"]
    rows = []
    for arm, columns in study["table"].items():
        runs = [run for run in study["runs"] if run["arm"] == arm]
        near = [
            mean(m["auroc"] for r in runs for m in r["metrics"][s]["near"].values()) for s in names
        ]
        own = [report.cell(columns[name]["values"]) for name in report.OWN_SCORE]
        rows.append([arm, *(f"{100 * x:.1f}" for x in near), *own])
    return report.markdown_table(head, *rows)


def _ablation(section: Mapping) -> str:
    """The question of an ablation, and its table of arms."""
    seeds = max(len(arm["ID acc"]["seeds"]) for arm in section["table"].values())
    where = "GPU" if claims.on_gpu(section) else "CPU"
    table = section["markdown"].split("\n\n")[0]
    preset = section["runs"][0]["preset"]["name"]
    return f"**{section['question']}** ({seeds} seeds, {where}, preset {preset})\n\n{table}"


def _choices(study: Mapping) -> str:
    """What was chosen on validation-OOD, with the differences to the first baseline."""
    parts = []
    for name, section in study.get("choices", {}).items():
        levels, caption, *paired = section["markdown"].split("\n\n")
        _, _, held_out = name.partition(", ")  # else several pairs of classes ask the same question
        heading = f"**{section['question']}**" + f" ({held_out})" * bool(held_out)
        parts += [heading, levels, caption, *paired[:1]]
    return "\n\n".join(parts)


def _levels(study: Mapping) -> str:
    """The arms on real images."""
    arms, caption, *_ = study["markdown"].split("\n\n")
    return f"{arms}\n\n{caption} Made on {study['made']} ({study['machine']})."


def _real(study: Mapping) -> str:
    """The same, the differences to the first baseline, then its ablations and choices."""
    parts = [_levels(study), *study["markdown"].split("\n\n")[2:3]] if "markdown" in study else []
    parts += [*map(_ablation, study.get("ablations", {}).values()), _choices(study)]
    return "\n\n".join(filter(None, parts))


def _ratios(speed: Mapping) -> str:
    rows = [
        [name, row["against"], f"{row['ratio']:.{0 if row['ratio'] >= 10 else 1}f}",
         f"{row['target']:g}" if row["target"] else ""]
        for name, row in speed["ratios"].items()
    ]  # fmt: skip
    return report.markdown_table(["stage", "against", "times as fast", "aim"], *rows)


def _limits(speed: Mapping) -> str:
    rows = [
        [name, f"{row['value']:.2g}" if row["value"] < 10 else f"{row['value']:.0f}",
         f"at most {row['limit']:g}" if row["limit"] else ""]
        for name, row in speed["limits"].items()
    ]  # fmt: skip
    return report.markdown_table(["cost", "measured", "limit"], *rows)


def _gpu(speed: Mapping) -> str:
    """What a GPU did: ratios, and samples a second beside what was counted."""
    machine = speed["machine"]
    head = ["on the GPU", "a second", "GFLOP each", "TFLOP/s", "share of peak", "memory, GB"]
    rows = [
        [name, f"{row['rate']:,.0f} {row['unit']}", f"{row['flop_each'] / 1e9:,.4g}",
         f"{row['tflops']:,.3g}",
         f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else "",
         f"{row['peak_memory_gb']:.1f}" if row["peak_memory_gb"] else ""]
        for name, row in speed["throughput"].items()
    ]  # fmt: skip
    peak = (
        f" The peak is what the datasheet names for dense bf16, {machine['peak']} TFLOP/s, also in "
        "the lines of float32."
        if machine["peak"]
        else ""
    )
    parts = [
        f"On a GPU ({machine['device']}, {machine['date']}, torch {machine['torch']}), both forms "
        "on it:",
        _ratios(speed) if speed["ratios"] else "",
        report.markdown_table(head, *rows) if rows else "",
        _limits(speed) if speed["limits"] else "",
        f"One multiply-add is 2 FLOP; models have random weights.{peak} "
        "[A picture](performance-cuda.png).",
    ]
    return "\n\n".join(filter(None, parts))


def _measured(speed: Mapping) -> str:
    machine = speed["machine"]
    return (
        f"Measured on {machine['date']}: {machine['cores']} CPU cores, {machine['threads']} "
        f"threads, torch {machine['torch']}, float32."
    )


def fill(pages: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, str]:
    """Put each part between its marks, on whichever page they stand.

    Raises:
        ValueError: if a part's marks are not there exactly once on all pages together.
    """
    filled = dict(pages)
    for name, part in parts.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        found = 0
        for page, text in filled.items():
            filled[page], n = marks.subn(lambda m, part=part: f"{m[1]}\n{part}\n\n{m[2]}", text)
            found += n
        if found != 1:
            raise ValueError(
                f"{found} pairs of marks '<!-- {name} -->', '<!-- /{name} -->' on the pages "
                f"{', '.join(pages)}; expected one"
            )
    return filled


def main(argv: list[str] | None = None) -> int:
    """Fill the tables of both pages; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m oal_lite.readme", description=__doc__)
    parser.parse_args(argv)
    return command.guarded(write)


def write() -> None:
    """Fill the tables of both pages of the current folder.

    Raises:
        ValueError, OSError: where there are no such pages, or a file in `figures/` is damaged.
    """
    raw = {page: _page(page) for page in PAGES}
    texts = {page: text.replace("\r\n", "\n") for page, text in raw.items()}
    parts = tables(Path("figures"))
    for page, text in fill(texts, parts).items():
        made = text.replace("\n", "\r\n") if "\r\n" in raw[page] else text
        write_atomically(Path(page), lambda p, made=made: p.write_bytes(made.encode()))
    sys.stdout.write(f"wrote the tables of {' and '.join(PAGES)}\n")


def _page(page: str) -> str:
    try:
        return Path(page).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{page} cannot be read ({error}); run this in the root of the checkout, or restore it"
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
