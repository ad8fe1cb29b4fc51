"""Results as a table, a file and figures: what `python -m oal_lite` leaves behind."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from oal_lite.arguments import need_kind, need_names, need_path, need_whole
from oal_lite.claims import differences, in_points
from oal_lite.files import locked, real_path, write_atomically
from oal_lite.materials import Materials
from oal_lite.metrics import mean_interval
from oal_lite.presets import MODELS, PRESETS, WITHOUT, hold_out
from oal_lite.recipes import Arm
from oal_lite.run_files import RECORD, place_of, without_content
from oal_lite.study import Run

Column = Callable[[Run], float | None]

CONVENTION = "score: energy, high = OOD; OOD is the positive class; FPR95 as OpenOOD v1.5"
COLUMNS: dict[str, Column] = {
    "ID acc": lambda r: r.record["id_accuracy"],
    "near AUROC": lambda r: r.metric("near", "auroc"),
    "near FPR95": lambda r: r.metric("near", "fpr95"),
    "far AUROC": lambda r: r.metric("far", "auroc"),
    "far FPR95": lambda r: r.metric("far", "fpr95"),
}
# For choices, which no test-OOD may have a part in.
VALIDATION: dict[str, Column] = {
    "ID acc": COLUMNS["ID acc"],
    "validation AUROC": lambda r: r.metric("validation", "auroc"),
    "validation FPR95": lambda r: r.metric("validation", "fpr95"),
    "validation AUROC, entropy": lambda r: r.metric("validation", "auroc", "entropy"),
}


def own_score(run: Run) -> str | None:
    """The score that tells validation-OOD best, by mean AUROC; None where there is no such set."""
    found = {score: run.metric("validation", "auroc", score) for score in run.record["metrics"]}
    found = {score: value for score, value in found.items() if value is not None}
    return max(found, key=found.get) if found else None


def _auroc(group: str, choose: Callable[[Run], str | None]) -> Column:
    """AUROC by the score that is chosen for a run; None where the run has no metrics by it."""

    def value(run: Run) -> float | None:
        score = choose(run)
        return run.metric(group, "auroc", score) if score in run.record["metrics"] else None

    return value


GROUPS = ("near", "far")
# No test set is asked which score suits a student.
OWN_SCORE = {f"{group} AUROC, own score": _auroc(group, own_score) for group in GROUPS}
# One score for all, of those that look at the softmax alone.
ENTROPY = {f"{group} AUROC, entropy": _auroc(group, lambda _: "entropy") for group in GROUPS}


def need_runs(results: Sequence[Run], *, least: int = 1, keys: Sequence[str] = ()) -> None:
    """Refuse what are no runs, fewer than so many, one given twice, and records without a key.

    Raises:
        ValueError: with the way to get some.
    """
    if isinstance(results, Run) or not isinstance(results, Sequence):
        raise ValueError(
            f"results are a {type(results).__name__}; expected several Runs, in a list"
        )
    for r in results:
        if not isinstance(r, Run):
            raise ValueError(
                f"results hold a {type(r).__name__}; expected Runs, as study.run gives"
            )
        if lacking := [k for k in keys if k not in r.record]:
            raise ValueError(
                f"a run's record lacks {', '.join(lacking)}: another version made it; train it anew"
            )
    found = set()
    for r in results:  # as far as they say what they are
        arm, seed, preset = (r.record.get(k) for k in ("arm", "seed", "preset"))
        name = str((arm, seed, held_out_of(r.record) if preset else ()))
        if seed is not None and name in found:
            raise ValueError(f"results hold the run of {arm}, seed {seed}, twice; give each once")
        found.add(name)
    if len(results) < least:
        raise ValueError("there are no results, so no table; expected Runs, as study.run gives")


def by_arm(results: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by arm, in the order in which the arms first appear.

    Raises:
        ValueError: for what are no runs.
    """
    need_runs(results, least=0, keys=("arm", "seed"))
    groups: dict[str, list[Run]] = {}
    for r in results:
        groups.setdefault(r.record["arm"], []).append(r)
    return groups


def cell(values: Sequence[float | None]) -> str:
    """A mean in percent; from two seeds on with the half-width of its 95 % interval.

    Raises:
        ValueError: for no value at all, or NaN.
    """
    if not len(values):
        raise ValueError("a cell of the table has no value; expected one for each seed")
    if any(v is not None and not math.isfinite(v) for v in values):
        raise ValueError(f"a cell of the table holds {list(values)}; find the run that gave it")
    if None in values:  # no set of this group was at hand
        return "–"
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    mean, low, _ = mean_interval(values)
    return f"{100 * mean:.1f} ± {100 * (mean - low):.1f}"


def header(columns: Mapping[str, Column] = COLUMNS) -> list[str]:
    """The first row of a table of arms."""
    return ["arm, %", *columns]


def rows(results: Sequence[Run], columns: Mapping[str, Column] = COLUMNS) -> list[list[str]]:
    """One row per arm: its name and the cells of the columns."""
    return [
        [arm, *(cell([column(r) for r in runs]) for column in columns.values())]
        for arm, runs in by_arm(results).items()
    ]


def paired_rows(
    results: Sequence[Run], baseline: str, columns: Mapping[str, Column] = COLUMNS
) -> list[list[str]]:
    """Difference of every other arm to `baseline`, paired by seed, in percentage points.

    A cell holds the mean difference, its 95 % interval and the p-value of a paired t-test (see
    `metrics.paired_test`). Only seeds that both arms have count; with fewer than two, no row.
    """
    table, lines = values(results, columns), []
    for arm in table:
        tests = [differences(table, arm, baseline, column) for column in columns]
        if arm != baseline and any(tests):
            cells = [in_points(t) + (f" p={t.p_value:.2g}" if t else "") for t in tests]
            lines.append([f"{arm} − {baseline}", *cells])
    return lines


def markdown_table(*lines: Sequence[str]) -> str:
    """A header and rows as a Markdown table; all columns but the first are right-aligned.

    Raises:
        ValueError: without a header, or with a row of another length.
    """
    if not lines or not len(lines[0]) or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError(
            f"lines of length {', '.join(str(len(line)) for line in lines) or 'none'}; expected a "
            "header and rows, with a cell for each heading"
        )
    header, *rest = lines
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(
    results: Sequence[Run], baselines: Sequence[str] = (), columns: Mapping[str, Column] = COLUMNS
) -> str:
    """The tables in Markdown, with the convention below the first.

    From two seeds on, one more for each baseline holds the paired differences to it; without
    baselines, that to `kd`, or to `ce` where there is no `kd`.
    """
    if isinstance(baselines, str):
        raise ValueError(f"baselines={baselines!r}; expected several arms, as ('kd', 'ce')")
    parts = [markdown_table(header(columns), *rows(results, columns)), caption(results)]
    for baseline in baselines or ["kd" if "kd" in by_arm(results) else "ce"]:
        if paired := paired_rows(results, baseline, columns):
            parts.append(markdown_table(["paired by seed, points", *columns], *paired))
    return "\n\n".join(parts)


def caption(results: Sequence[Run]) -> str:
    """Seeds, convention, what was held out or missing, and models that are not the preset's.

    Raises:
        ValueError: for no run.
    """
    need_runs(results, keys=("seed", "preset"))
    seeds = sorted({r.record["seed"] for r in results})
    interval = "; ± is half of a 95 % t-interval over seeds" if len(seeds) > 1 else ""
    preset = results[0].record["preset"]["name"].split(WITHOUT)[0]
    text = f"Preset {preset}, {len(seeds)} seed(s) {seeds}{interval}. {CONVENTION}."
    groups: dict[tuple[str, ...], set[int]] = {}
    for r in results:
        groups.setdefault(held_out_of(r.record), set()).add(r.record["seed"])
    turns = [
        f"{' and '.join(names)} (seed{'s' * (len(own) > 1)} {', '.join(map(str, sorted(own)))})"
        for names, own in sorted(groups.items(), key=lambda group: min(group[1])) if names
    ]  # fmt: skip
    if turns:
        text += f" Held out of the trainings here, as validation-OOD: {', '.join(turns)}."
    if models := sorted({model for r in results for model in _other_models(r.record)}):
        text += f" In place of the preset's models: {', '.join(models)}."
    if missing := sorted({name for r in results for name in r.record.get("missing", [])}):
        text += f" Not at hand, and left out of the averages: {', '.join(missing)}."
    return text


def _other_models(record: Mapping) -> list[str]:
    """A run's teacher and pipeline, where they are not its preset's own."""
    name = record["preset"]["name"].split(WITHOUT)[0]
    if name not in PRESETS:  # a smoke run, or a preset of the caller's
        return []
    own = hold_out(PRESETS[name], held_out_of(record))
    others = []
    for part in MODELS:
        model = without_content(record["preset"].get(part, ""))
        if model and model != place_of(getattr(own, part)):
            others.append(f"{part} {model}")
    return others


def summary(
    results: Sequence[Run],
    *,
    baselines: Sequence[str] = (),
    columns: Mapping[str, Column] = COLUMNS,
    more: Mapping[str, Column] | None = None,
) -> dict:
    """What `results.json` holds: where it was made, the table's numbers, and every run's record.

    Machine and day are those of the trainings, the last day of several. `more` are columns whose
    values are kept, and not shown.
    """
    need_runs(results, keys=RECORD)
    made = [r.record["made"] for r in results]
    return {
        "made": max(m["date"] for m in made),
        "machine": "; ".join(sorted({m["machine"] for m in made})),
        "convention": CONVENTION,
        "table": values(results, {**columns, **(more or {})}),
        "questions": {r.record["arm"]: r.record["recipe"]["question"] for r in results},
        "markdown": markdown(results, baselines, columns),
        "runs": [r.record for r in results],
    }


def values(results: Sequence[Run], columns: Mapping[str, Column] = COLUMNS) -> dict:
    """Per arm and column, every run's value and its seed: a table as `claims` reads it."""
    return {
        arm: {
            name: {
                "values": [column(r) for r in runs],
                "seeds": [r.record["seed"] for r in runs],
            }
            for name, column in columns.items()
        }
        for arm, runs in by_arm(results).items()
    }


def section(
    results: Sequence[Run], *, question: str, baselines: Sequence[str], choice: bool = False
) -> dict:
    """One part of `study.json`: what `summary` holds, the cost, and differences to every baseline.

    Args:
        results: of all arms and seeds of the part.
        question: that it answers, in words.
        baselines: arms to which all others are compared, paired by seed.
        choice: whether a setting is to be chosen by it: then the tables know validation-OOD alone.
    """
    more = {} if choice else OWN_SCORE | ENTROPY
    more |= {"training seconds": lambda r: r.record["seconds"]["training"]}
    columns = VALIDATION if choice else COLUMNS
    whole = summary(results, baselines=baselines, columns=columns, more=more)
    return whole | {
        "question": question,
        "code": sorted({r.record["code"] for r in results}),
        "cost": {arm: cost(runs) for arm, runs in by_arm(results).items()},
        "runs": [_short(record) for record in whole["runs"]],
    }


def add_section(path: Path, name: str, content: dict, *, choice: bool = False) -> None:
    """Put the arms at the top of `study.json`, an ablation or a choice below them by its name.

    In their runs only the metrics by energy are kept, in a choice those of validation-OOD alone.

    Raises:
        ValueError: for a content that is none, as of other things than numbers.
        OSError: if the file cannot be written.
    """
    need_path(path=path)
    need_names(names=[name])
    need_kind(dict, "as report.summary gives", content=content)
    path = Path(path)
    _check_table(content.get("table", {}))  # a file that holds NaN could not be read again
    with locked(path):  # or two studies that end together would keep one section of two
        _add_section(path, name, content, _part(name, choice))


def held_out_of(record: Mapping) -> tuple[str, ...]:
    """The classes that a run was made without; runs of older versions saw them all."""
    return tuple(record["preset"].get("held_out", ()))


def trained(
    path: Path, name: str, *, choice: bool = False
) -> set[tuple[str, int, tuple[str, ...]]]:
    """Arm, seed and held-out classes of every run in a section of `study.json`, if there is one.

    Raises:
        ValueError: for a damaged file.
    """
    study, part = read_study(path), _part(name, choice)
    section = study.get(part, {}).get(name, {}) if part else study
    try:
        runs = section.get("runs", [])
        found = {(run["arm"], run["seed"], held_out_of(run)) for run in runs}
        sorted(found)  # several kinds of seed have no order
        return found
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged (runs of {name!r}: {error}); restore it, or delete it"
        ) from None


PARTS = ("ablations", "choices")  # of `study.json`; the arms stand at its top


def _part(name: str, choice: bool) -> str | None:
    return "choices" if choice else None if name == "arms" else "ablations"


def read_study(path: Path) -> dict:
    """What a file of results holds; nothing where there is none.

    Raises:
        ValueError: for a damaged one.
    """
    path = Path(path)
    try:
        real = real_path(path)  # a link that leads to itself would pass for a file not yet there
        study = json.loads(real.read_text()) if real.exists() else {}
        if not isinstance(study, dict):
            raise ValueError(f"it holds a {type(study).__name__}")
        for part in PARTS:
            if not isinstance(study.get(part, {}), dict):
                raise ValueError(f"its {part} are a {type(study[part]).__name__}")
        for section in [study, *(s for part in PARTS for s in study.get(part, {}).values())]:
            _check_table(section.get("table", {}))
    except (AttributeError, KeyError, OverflowError, OSError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        raise ValueError(f"{path} is damaged ({error}); restore it, or delete it") from None
    return study


def _check_table(table: Mapping) -> None:
    """Refuse a table that is not one number, or None, for each seed of each arm and column."""
    for arm, columns in table.items():
        for column, cells in columns.items():
            found, seeds = cells["values"], cells["seeds"]
            odd = [v for v in found if v is not None and not math.isfinite(v)]
            if odd or len(found) != len(seeds):
                raise ValueError(f"{arm}, {column}: {found} for the seeds {seeds}")


def _add_section(path: Path, name: str, content: dict, part: str | None) -> None:
    study = read_study(path)
    if part is None:
        study = content | {p: study.get(p, {}) for p in PARTS}
    else:
        for run in content["runs"]:
            groups = run["metrics"]["energy"]
            shown = ("validation",) if part == "choices" else groups
            run["metrics"] = {"energy": {group: groups[group] for group in shown}}
        study.setdefault(part, {})[name] = content
    write_atomically(path, lambda p: p.write_text(json.dumps(study, indent=1)))


def cost(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds of every stage that these runs went through, and megabytes of outliers held.

    A stage that was read from the disk, or made for another arm of the seed, has no time here.

    Raises:
        ValueError: for no run.
    """
    need_runs(runs, keys=("seconds",))
    stages: dict[str, list[float]] = {}
    for r in runs:
        for stage, seconds in r.record["seconds"].items():
            stages.setdefault(stage, []).append(seconds)
    means = {f"{stage}, s": sum(x) / len(x) for stage, x in stages.items()}
    return means | {"extra data, MB": max(r.record.get("extra_mb", 0.0) for r in runs)}


def _short(record: dict) -> dict:
    """A record without its curves, and of the metrics AUROC and FPR95 only."""
    kept = {k: v for k, v in record.items() if k != "history"}
    return kept | {
        "metrics": {
            score: {
                group: {
                    name: {m: round(values[m], 5) for m in ("auroc", "fpr95")}
                    for name, values in sets.items()
                }
                for group, sets in groups.items()
            }
            for score, groups in record["metrics"].items()
        }
    }


def write(results: Sequence[Run], materials: Materials, out: str | Path) -> list[Path]:
    """Write `results.json` and the figures into `out`; returns the files' paths.

    Raises:
        ValueError: for no run, before anything is written.
        OSError: if `out` cannot be written to.
    """
    import matplotlib.pyplot as plt

    from oal_lite import plots

    need_path(out=out)
    need_runs(results)
    plots.set_theme()
    out, written = Path(out), []
    runs = {arm: members[0] for arm, members in by_arm(results).items()}
    every = {arm: grouped_scores(r) for arm, r in runs.items()}  # or a bad run would end it midway
    record = json.dumps(summary(results), indent=1)
    write_atomically(out / "results.json", lambda p: p.write_text(record))
    written.append(out / "results.json")
    seed = next(iter(runs.values())).record["seed"]

    figure, axes = plt.subplots(
        1, len(runs), figsize=(5 * len(runs), 4.4), layout="constrained", squeeze=False
    )
    for ax, arm in zip(axes[0], runs, strict=True):
        plots.score_histograms(every[arm], ax=ax)
        ax.set_title(arm)
    figure.suptitle(f"Energy scores, seed {seed}: the less the curves overlap, the better")
    written.append(plots.save(figure, out / "score_histograms.png"))

    figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for ax, group in zip(axes, ("near", "far"), strict=True):
        curves = {arm: (g["id"], g[group]) for arm, g in every.items() if group in g}
        if not curves:
            ax.set_title(f"no {plots.LABELS[group]} set at hand")
            ax.set_axis_off()
            continue
        plots.roc(curves, ax=ax)
        ax.set_title(f"{plots.LABELS[group]}, sets pooled, seed {seed}")
    written.append(plots.save(figure, out / "roc.png"))

    figure, ax = plt.subplots(figsize=(10, 0.6 + 0.42 * len(runs)), layout="constrained")
    plots.table(header(), rows(results), ax=ax)
    figure.text(0.01, 0.01, caption(results), fontsize=7, color="0.35")
    written.append(plots.save(figure, out / "results_table.png"))

    arms = (Arm("", outliers=r.record["recipe"]["outliers"]) for r in results)
    made = {arm.synthesised for arm in arms} - {None}
    if made:  # else no diffusion model was needed
        shown = "farthest" if "farthest" in made else min(made)
        written.append(plots.save(outlier_sheet(materials, shown), out / "outliers.png"))
    plt.close("all")
    return written


def grouped_scores(r: Run, score: str = "energy") -> dict[str, torch.Tensor]:
    """Scores of one run pooled by group: `id`, `near`, `far`; a group without sets is left out.

    Raises:
        ValueError: for a score that the run does not have.
    """
    need_runs([r])
    if score not in r.record["metrics"]:
        known = ", ".join(r.record["metrics"])
        raise ValueError(f"score {score!r} is not among those of this run; choose from {known}")
    found = r.record["metrics"][score]
    members = {"id": ["id"]} | {g: [*found[g]] for g in ("near", "far") if found.get(g)}
    if lost := [n for names in members.values() for n in names if f"{score}/{n}" not in r.scores]:
        raise ValueError(
            f"the scores of this run lack {score}/{lost[0]}; delete its two files, and train anew"
        )
    return {
        group: torch.cat([r.scores[f"{score}/{name}"] for name in names])
        for group, names in members.items()
    }


def outlier_sheet(  # noqa: ANN201
    materials: Materials, selection: str = "farthest", *, columns: int = 9, classes: int = 10
):
    """Of the first classes: real images, what the word gives, what outliers in its place give.

    The outliers are those of a selection of the k-NN step.

    Raises:
        ValueError: for fewer than 5 columns (two real, two of the word, an outlier), or no class.
    """
    need_whole(columns=columns, classes=classes)
    if columns < 5 or classes < 1:
        raise ValueError(f"columns={columns}, classes={classes}; expected at least 5 and 1")
    import matplotlib.pyplot as plt

    from oal_lite import plots
    from oal_lite.diffusion_outliers import decode, synthesise, word_embeddings

    names, train = materials.benchmark.class_names[:classes], materials.benchmark.train
    outliers = materials.outliers(selection)
    settings = materials.preset.diffusion
    words = word_embeddings(materials.pipeline, names).repeat_interleave(2, 0)
    plain = decode(
        materials.pipeline,
        synthesise(
            materials.pipeline, words, names, prompt=settings.prompt, steps=settings.steps,
            guidance=settings.guidance, batch_size=settings.batch_size,
        ),
        batch_size=settings.batch_size, size=materials.benchmark.image_size,
    )  # fmt: skip
    rows_ = []
    for c in range(len(names)):
        real = train.images[(train.labels == c).nonzero()[:2, 0]]
        made = outliers.images[outliers.latent_classes == c][: columns - 4]
        rows_.append(torch.cat([real, plain[2 * c : 2 * c + 2], made]))
    width = min(map(len, rows_))
    figure, ax = plt.subplots(figsize=(7, 8), layout="constrained")
    plots.image_grid(torch.cat([r[:width] for r in rows_]), columns=width, titles=names, ax=ax)
    ax.set_title(
        "two real images | two from the class word | outliers in the word's place", fontsize=10
    )
    for x in (2, 4):
        ax.axvline(x * (materials.benchmark.image_size + 2) - 1.5, color="k", linewidth=2)
    return figure
