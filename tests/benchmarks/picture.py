"""The picture of the benchmarks: ratios; growth, or a GPU's arithmetic, on the right."""

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure  # noqa: E402


def draw(found: dict) -> Figure:
    """Draw what `performance.json` holds."""
    figure = Figure(figsize=(13.5, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _ratios(left, found["ratios"])
    m = found["machine"]
    if found["scaling"]:
        _growth(right, found["scaling"])
    else:
        _arithmetic(right, found.get("throughput", {}), m.get("peak"))
    where = f"{m['threads']} thread(s) on {m['machine']}"
    if m.get("device", "cpu") != "cpu":
        where = m["device"]
    figure.suptitle(f"{where}, torch {m['torch']}, {m['date']}", fontsize=10)
    return figure


def _ratios(ax, ratios):
    names = list(ratios)[::-1]
    values = [ratios[n]["ratio"] for n in names]
    ax.barh(names, values, color="#4477aa")
    for y, name in enumerate(names):
        low, high = ratios[name]["ratio_range"]
        ax.plot([low, high], [y, y], color="black", lw=1)
        ax.text(high * 1.08, y, _times(ratios[name]["ratio"]), va="center", fontsize=9)
        if ratios[name]["target"]:
            ax.plot([ratios[name]["target"]] * 2, [y - 0.4, y + 0.4], color="#cc3311", lw=2)
    ax.plot([], [], color="#cc3311", lw=2, label="aim")
    ax.plot([], [], color="black", lw=1, label="range of the repeats")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, position: f"{x:,.0f}")
    ax.set_xlim(1, max(values, default=1) * 4)
    ax.set_xlabel("times as fast as the plain form")
    ax.legend(fontsize=8, loc="lower right")


def _arithmetic(ax, throughput, peak):
    names = list(throughput)[::-1]
    ax.barh(names, [throughput[n]["tflops"] for n in names], color="#228833")
    for y, name in enumerate(names):
        row = throughput[name]
        ax.text(
            row["tflops"] * 1.08, y, f"{row['rate']:,.0f} {row['unit']}/s", va="center", fontsize=8
        )
    if peak:
        ax.axvline(peak, color="#cc3311", lw=1.5, label="the datasheet's dense bf16")
        ax.legend(fontsize=8, loc="lower right")
    ax.set_xscale("log")
    ax.margins(x=0.25)
    ax.tick_params(axis="y", labelsize=7)
    ax.set_xlabel("TFLOP/s, of operations counted")


def _times(ratio):
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _growth(ax, scaling):
    for i, (name, s) in enumerate(scaling.items()):
        relative = [x / s["sizes"][0] for x in s["sizes"]]
        times = [t / s["seconds"][0] for t in s["seconds"]]
        ax.plot(
            relative, times, "osv^D*PX"[i % 8] + "-", ms=5, lw=1.2,
            label=f"{name}, from {s['sizes'][0]}:\nexponent {s['exponent']:.2f}",
        )  # fmt: skip
    ends = [1, 8]
    ax.plot(ends, ends, ":", color="grey", label="in proportion (exponent 1)")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda x, position: f"{x:g}")
    ax.set_xlabel("size, over the smallest")
    ax.set_ylabel("time, over that of the smallest")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
