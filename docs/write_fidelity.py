"""Write the tables and the picture of docs/fidelity.md, and a table of docs/cost.md.

They come from the figures in docs/evidence/fidelity/.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from markers import fill
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from paddleseg_autoloss.plot_styles import LINE_COLORS, line_style

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "fidelity.md"
COST_PAGE = DOCS / "cost.md"
FIGURES = DOCS / "evidence" / "fidelity" / "fidelity.csv"
COSTS = FIGURES.with_name("costs.csv")
PICTURE = FIGURES.with_name("frontier.png")
#: A scheme is good enough for a method if its median fidelity reaches this.
ENOUGH = 0.98
NETWORKS = {
    "pp_liteseg_1_head": "PP-LiteSeg, one head",
    "pp_liteseg_3_heads": "PP-LiteSeg, three heads",
    "bisenetv2_5_heads": "BiSeNetV2, five heads",
    "unet": "UNet",
}
DATA = {"optic_disc": "optic discs", "camvid": "CamVid"}
#: Columns of the tables of methods.
_SHOWN = {
    "equal weights": "equal weights",
    "level: logits": "logits",
    "level: features": "features",
    "update_interval: 2": "every 2",
    "update_interval: 5": "every 5",
    "update_interval: 10": "every 10",
    "update_interval: 15": "every 15",
    "update_interval: 50": "every 50",
}
_SETTING = ["model", "heads", "losses", "size", "batch_size"]
_MODELS = {
    "PPLiteSeg": "PP-LiteSeg (STDC1)",
    "BiSeNetV2": "BiSeNetV2",
    "UNet": "UNet",
    "OCRNet": "OCRNet (HRNet-W18)",
    "DeepLabV3P": "DeepLabV3+ (ResNet50-vd)",
}
#: Columns of the table of costs.
_VARIANTS = {
    "floor of K backward passes": "Floor",
    "level: parameters": "`level: parameters`",
    "floor of level: features": "Floor of features",
    "level: features": "`level: features`",
    "level: logits": "`level: logits`",
    "update_interval: 10": "`update_interval: 10`",
}


def page(text: str, figures: pd.DataFrame) -> str:
    """Return the page with its tables as the figures have them.

    Args:
        text: the page as it is.
        figures: what measure_fidelity.py wrote.
    """
    recordings = _recordings(figures)
    text = fill(text, "schemes", "\n\n".join(f"{_title(o)}\n\n{schemes(o)}" for o in recordings))
    return fill(text, "methods", "\n\n".join(f"{_title(o)}\n\n{methods(o)}" for o in recordings))


def _recordings(figures: pd.DataFrame) -> list[pd.DataFrame]:
    # SeparateBackward has equal weights, whatever it sees.
    judged = figures[figures.method != "SeparateBackward"]
    return [own for _, own in judged.groupby(["network", "data"], sort=False)]


def _title(own: pd.DataFrame) -> str:
    first = own.iloc[0]
    return f"**{NETWORKS[first.network]}, K = {first.K}, {DATA[first.data]}**, {first.steps} steps:"


def schemes(own: pd.DataFrame) -> str:
    """Return a table of all schemes for a recording.

    Args:
        own: the figures of the recording.
    """
    rows = []
    for (family, scheme), part in own.groupby(["family", "scheme"], sort=False):
        name = scheme if scheme.startswith(family) else f"{family}: {scheme}"
        lowest = part.loc[part["median"].idxmin()]
        tenth = part.loc[part.tenth_percentile.idxmin()]
        count = int((part["median"] >= ENOUGH).sum())
        rows.append(
            [
                name,
                f"{part.cost.iloc[0]:.2f}",
                f"{count} of {len(part)}",
                f"{lowest['median']:.3f} {lowest.method}",
                f"{tenth.tenth_percentile:.3f} {tenth.method}",
            ]
        )
    header = ["", "cost", f"median >= {ENOUGH}", "lowest median", "lowest tenth percentile"]
    return _table(header, rows)


def methods(own: pd.DataFrame) -> str:
    """Return a table of all methods for a recording: median and, in brackets, tenth percentile.

    Args:
        own: the figures of the recording.
    """
    own = own[own.scheme.isin(_SHOWN)]
    cells = own["median"].map("{:.3f}".format) + own.tenth_percentile.map(" ({:.2f})".format)
    table = own.assign(cell=cells).pivot(index="method", columns="scheme", values="cell")
    table = table[[scheme for scheme in _SHOWN if scheme in table]]
    costs = own.groupby("scheme").cost.first()
    rows = [["*cost*", *(f"*{costs[scheme]:.2f}*" for scheme in table)]]
    rows += [[f"`{name}`", *cells] for name, cells in zip(table.index, table.to_numpy())]
    return _table(["", *(_SHOWN[scheme] for scheme in table)], rows)


def costs_table(costs: pd.DataFrame) -> str:
    """Return a table of what each level costs; in brackets the middle half of the rounds.

    Args:
        costs: what benchmark_gradients.py wrote.
    """
    rows = []
    for (model, heads, losses, size, batch), own in costs.groupby(_SETTING, sort=False):
        own = own.drop_duplicates("variant", keep="last").set_index("variant")
        share = own.share_of_backward.iloc[0]
        setting = f"{_MODELS[model]}, {size} x {size}, batch {batch}"
        rows.append([setting, str(heads), str(heads * losses), f"{share:.2f}"])
        rows[-1] += [_cost(own.loc[name]) for name in _VARIANTS]
    return _table(["Network", "Heads", "K", "Share of backward", *_VARIANTS.values()], rows)


def _cost(row: pd.Series) -> str:
    middle = "" if row.low == row.high else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{row.ratio:.2f}{middle}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(figures: pd.DataFrame, path: Path) -> None:
    """Draw cost against fidelity, a panel for each recording.

    A scheme's marker is the median method, and the line below it goes down to the lowest one.

    Args:
        figures: what measure_fidelity.py wrote.
        path: the picture.
    """
    recordings = _recordings(figures)
    columns = min(2, len(recordings))
    lines = -(-len(recordings) // columns)
    figure = Figure(figsize=(6 * columns, 4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, own in zip(panels, recordings):
        for index, (family, part) in enumerate(own.groupby("family", sort=False)):
            by_scheme = part.groupby("scheme")
            cost, middle = by_scheme.cost.first(), by_scheme["median"].median()
            order = cost.sort_values().index
            style = line_style(index) | {"linestyle": ":", "linewidth": 1}
            axes.plot(cost[order], 1 - middle[order] + _FLOOR, label=family, **style)
            low = 1 - by_scheme["median"].min()[order] + _FLOOR
            axes.vlines(
                cost[order],
                1 - middle[order] + _FLOOR,
                low,
                color=LINE_COLORS[index % len(LINE_COLORS)],
                alpha=0.4,
            )
            if family == "level":
                for scheme in order:
                    name = scheme.removeprefix("level: ")
                    place = (cost[scheme], 1 - middle[scheme] + _FLOOR)
                    axes.annotate(name, place, (4, 4), textcoords="offset points", fontsize=8)
        axes.axhline(1 - ENOUGH, color="#999999", linewidth=1)
        axes.set(
            xscale="log",
            yscale="log",
            title=_title(own).strip(":").replace("*", ""),
            xlabel="cost of a step, multiple of the plain step's",
            ylabel="1 - median fidelity",
        )
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(FixedLocator(_TICKS))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axes in panels[len(recordings) :]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 3 * columns))
    figure.savefig(path, dpi=110)


#: Costs on the axis.
_TICKS = [1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4]
#: What is added to 1 - fidelity, so that its logarithm exists.
_FLOOR = 1e-5


if __name__ == "__main__":
    table = pd.read_csv(FIGURES)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    draw(table, PICTURE)
    about_cost = fill(
        COST_PAGE.read_text(encoding="utf-8"), "levels", costs_table(pd.read_csv(COSTS))
    )
    COST_PAGE.write_text(about_cost, encoding="utf-8")
