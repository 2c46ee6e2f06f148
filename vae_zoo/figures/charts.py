"""Charts: KL of each latent dimension and heat maps (uint8 [H, W, 3], drawn by matplotlib), curves (SVG text).

matplotlib is imported when a chart is drawn, and only its object-oriented interface is used: pyplot's global state is not
changed, so that charts drawn during training do not affect those of the user.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np

from vae_zoo.figures import theme

ACTIVE = 0.1  # nats: collapsed dimensions of a trained model still carry a few hundredths


def kl_per_dimension(kl: Mapping[str, np.ndarray]) -> np.ndarray:
    """KL of every latent dimension, {block: [D] nats}, as bars in the order of their index, one colour for each block.

    A dimension that is not active (KL at most `ACTIVE`) has a ring in place of a bar; the title counts the others.
    """
    kl = {block: np.asarray(values, float) for block, values in kl.items()}
    total = sum(map(len, kl.values()))
    active = sum((values > ACTIVE).sum() for values in kl.values())
    width = min(12, max(4.5, 1.2 + 0.22 * (total + len(kl))))
    per_row = max(1, int(width / (0.9 + 0.075 * max(map(len, kl)))))  # entries of the legend
    head = 0.35 + 0.2 * ceil(len(kl) / per_row)  # inches for title and legend
    with _chart(width, height=2.5 + head) as axes:
        start, ticks = 0, []
        for i, (block, values) in enumerate(kl.items()):
            place, on = start + np.arange(len(values)), values > ACTIVE
            colour = theme.SERIES[i % len(theme.SERIES)]
            axes.bar(place[on], values[on], 0.75, color=colour, label=f"{block}  {on.sum()}/{len(values)}")
            off = place[~on]
            axes.scatter(off, 0 * off, 14, theme.PAPER, edgecolors=theme.MUTED, clip_on=False, in_layout=False, zorder=3)
            stride = 1 if total <= 30 else 2 if total <= 60 else 10
            ticks += [(start + index, index) for index in range(0, len(values), stride)]
            start += len(values) + 1  # one empty place between blocks
        axes.axhline(ACTIVE, color=theme.MUTED, lw=0.8, ls=(0, (4, 3)))
        axes.set_xticks(*zip(*ticks, strict=True))
        axes.set(xlim=(-0.9, start - 1.1), xlabel="dimension", ylabel="KL in nats")
        axes.set_ylim(0, max(axes.get_ylim()[1], 5 * ACTIVE))
        title = f"{active} of {total} dimensions above {ACTIVE:g} nats"
        legend = {"loc": "upper left", "alignment": "left", "ncols": per_row, "handlelength": 0.9}
        axes.figure.legend(title=title, title_fontsize=10.5, **legend)
        axes.figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / (2.5 + head)))
        return _pixels(axes.figure)


def heat_map(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, vmin: float = 0, vmax: float = 1
) -> np.ndarray:
    """A table [R, C]: each cell has its value as a number and, between `vmin` and `vmax`, as colour; NaN is a dash."""
    from matplotlib.colors import LinearSegmentedColormap

    values = np.asarray(values, float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values must be [{len(rows)}, {len(columns)}] as the labels say, got {list(values.shape)}")
    colours = LinearSegmentedColormap.from_list("accent", ["#eef1ee", "#a3cbce", theme.ACCENT])
    width = max(0.8 + 0.08 * max(map(len, rows)) + 0.7 * len(columns), 0.5 + 0.085 * len(title))
    with _chart(width, height=1.2 + 0.4 * len(rows)) as axes:
        axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=vmin, vmax=vmax, edgecolors=theme.PAPER, lw=2)
        for (row, column), value in np.ndenumerate(values):
            dark = value > vmin + 0.65 * (vmax - vmin)
            colour = theme.MUTED if np.isnan(value) else theme.PAPER if dark else theme.INK
            text = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        slant = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 9 else {}
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, **slant)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        axes.set_title(title, loc="left")
        return _pixels(axes.figure)


def cluster_sizes(shares: Mapping[str, np.ndarray], used: float) -> np.ndarray:
    """{facet: [K] share of the images in each cluster} as bars from the largest to the smallest, a panel for each facet.

    A dashed line marks the share from which a cluster counts as `used`; the title of a panel gives the number of these.
    """
    with _chart(width=3.6 * len(shares) + 0.4, height=2.8, columns=len(shares)) as panels:
        for (facet, values), axes, colour in zip(shares.items(), np.atleast_1d(panels), theme.SERIES * len(shares)):
            values = np.sort(values)[::-1]
            axes.bar(np.arange(len(values)), values, 0.85, color=colour)
            axes.axhline(used, color=theme.MUTED, lw=0.8, ls=(0, (4, 3)))
            axes.set(xlabel="cluster, by size", ylabel="share of the images", xlim=(-0.8, len(values) - 0.2))
            axes.set_title(f"{facet}: {(values >= used).sum()} of {len(values)} used", loc="left")
        return _pixels(np.atleast_1d(panels)[0].figure)


def line_chart(
    lines: Mapping[str, Mapping[float, float]], xlabel: str, ylabel: str, title: str, ylim: tuple[float, float] | None = None
) -> np.ndarray:
    """Curves {name: {x: y}} with a dot at each point; values of x are equally spaced, as for 1, 2, 5, 10."""
    places = sorted({x for line in lines.values() for x in line})
    with _chart(width=6.4, height=3.6) as axes:
        for i, (name, line) in enumerate(lines.items()):
            colour, style = theme.SERIES[i % len(theme.SERIES)], ("-", "--", ":")[i // len(theme.SERIES) % 3]
            points = [places.index(x) for x in sorted(line)], [line[x] for x in sorted(line)]
            axes.plot(*points, style, marker="o", ms=4, color=colour, label=name)
        axes.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
        axes.set_title(title, loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return _pixels(axes.figure)


@contextmanager
def _chart(width: float, height: float, columns: int = 1) -> Iterator:
    """The axes of a new figure of `width` x `height` inches, or an array of them; our style applies only within it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, object] = dict.fromkeys(["figure.facecolor", "axes.facecolor"], theme.PAPER)
    style |= dict.fromkeys(["text.color", "axes.titlecolor"], theme.INK)
    style |= dict.fromkeys(["axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], theme.MUTED)
    style |= dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color"], theme.LINE)
    style |= dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False)
    style |= dict.fromkeys(["figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad"], 0.12)
    style |= {"font.size": 9, "axes.titlesize": 10.5, "text.parse_math": False}  # a block's name may hold a "$"
    with rc_context(style):
        yield Figure(figsize=(width, height), dpi=120, layout="constrained").subplots(1, columns)


def _pixels(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# The SVG of curves is written directly: a few kilobytes instead of twenty with matplotlib, and with colours of the page
# (its text colour and `--series-0`, `--series-1`, ...), which a report for light and dark screens needs.

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 180, 48, 10, 26, 22  # of the drawing, and of the margins about its plot
MAX_POINTS = 400  # of a line; longer lines are reduced to their extremes


def curves(steps: np.ndarray, values: Mapping[str, np.ndarray], log: bool = False) -> str:
    """A small line chart as SVG text: steps [N], {name: [N]}; NaN if a line has no value at that step.

    The first tenth of training may be cut off at the top or bottom, if showing it would compress the rest to less than a
    third of the height. `log`: logarithmic y axis, all of training, without values that are not positive.
    Values of 1e30 and more are left out. Names are escaped.
    """
    steps, lines = np.asarray(steps, float), {}
    for name, y in values.items():
        y = np.asarray(y, float)
        keep = (np.abs(y) < 1e30) & ((y > 0) | (not log))  # false for NaN
        if keep.any():
            lines[name] = _thin(steps[keep], np.log10(y[keep]) if log else y[keep])
    first, last = _span([x for x, _ in lines.values()])
    low, high = _window(list(lines.values()), settled=-np.inf if log else first + 0.1 * (last - first))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x):
        return (x - first) / (last - first) * width

    def down(y):
        return (high - y) / (high - low) * height

    grid, labels, drawn, legend = [], [], [], []
    for tick, text in _decades(low, high) if log else _ticks(low, high):
        grid.append(f"M{LEFT} {TOP + down(tick):.1f}h{width}")
        labels.append(f'<text x="{LEFT - 6}" y="{TOP + down(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in _ticks(first, last):
        x = LEFT + across(tick)
        anchor = "middle" if x + 4 * len(text) < WIDTH else "end"  # digits are 7 wide: nothing is cut at the right border
        labels.append(f'<text x="{x:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{text}</text>')
    for i, (name, (x, y)) in enumerate(lines.items()):
        colour = f"var(--series-{i % len(theme.SERIES)},{theme.SERIES[i % len(theme.SERIES)]})"
        points = [f"{a:.1f} {b:.1f}" for a, b in zip(across(x), down(y), strict=True)]
        dots = "".join(f"M{point}h0" for point in points) if len(points) <= 15 else ""  # round caps make dots of "h0"
        line = f'<path d="M{"L".join(points)}"/><path d="{dots}" stroke-width="5"/>'
        drawn.append(f'<g style="stroke:{colour}">{line}</g>')
        final = 10 ** y[-1] if log else y[-1]
        legend.append(f'<tspan style="fill:{colour}" dx="{10 * (i > 0)}">{escape(name)} {final:.4g}</tspan>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="system-ui,sans-serif" font-size="11">'
        f'<path d="{"".join(grid)}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<g fill="currentColor" fill-opacity=".7">{"".join(labels)}</g>'
        f'<text x="{LEFT}" y="14" font-weight="600">{"".join(legend)}</text>'
        # an inner svg clips the plot; 3 more pixels on each side, so that dots on its edge stay round
        f'<svg x="{LEFT - 3}" y="{TOP - 3}" width="{width + 6}" height="{height + 6}"'
        f' viewBox="-3 -3 {width + 6} {height + 6}"'
        f' fill="none" stroke-width="1.6" stroke-linejoin="round" stroke-linecap="round">{"".join(drawn)}</svg></svg>'
    )


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about MAX_POINTS points of a line: its ends, and the lowest and highest of each stretch."""
    if len(x) <= MAX_POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), MAX_POINTS // 2)
    extremes = [stretch[pick(y[stretch])] for stretch in stretches for pick in (np.argmin, np.argmax)]
    keep = np.unique([0, *extremes, len(x) - 1])
    return x[keep], y[keep]


def _span(arrays: list[np.ndarray]) -> tuple[float, float]:
    """Lowest and highest number, widened if they differ by less than a thousandth; (-1, 1) without numbers."""
    numbers = np.concatenate([*arrays, []]) if any(map(len, arrays)) else np.zeros(1)
    low, high = numbers.min(), numbers.max()
    if high - low > max(1e-3 * abs(high), 1e-30):
        return low, high
    pad = 0.1 * abs(high) if abs(high) > 1e-30 else 1
    return low - pad, high + pad


def _window(lines: list[tuple[np.ndarray, np.ndarray]], settled: float) -> tuple[float, float]:
    """The y range to show: of all values, or only of those after step `settled` if the former is far wider."""
    low, high = _span([y for _, y in lines])
    late_low, late_high = _span([y[x >= settled] for x, y in lines])
    if high - low > 3 * (late_high - late_low):
        low, high = late_low, late_high
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """Round numbers in [low, high], at most `count` + 1 of them, with their text."""
    unit = 10.0 ** floor(log10((high - low) / count))
    step = unit * min(m for m in (1, 2, 5, 10) if m * unit * count >= 0.999 * (high - low))
    places = [k * step for k in range(ceil(low / step), floor(high / step) + 1)]
    if step >= 1e9 or step < 1e-4:
        return [(place, f"{place:.3g}".replace("e-0", "e-")) for place in places]
    size, letter = (1e6, "M") if step >= 1e6 else (1e3, "k") if step >= 1e3 else (1, "")
    decimals = max(0, -floor(log10(step) + 1e-9)) if size == 1 else 0
    return [(place, f"{place / size:.{decimals}f}{letter if place else ''}") for place in places]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks for logarithms in [low, high]: 1, 2 and 5 of each decade, or whole decades where these are too many."""
    marks = [(e + log10(m), f"{m * 10.0**e:g}") for e in range(floor(low), ceil(high)) for m in (1, 2, 5)]
    marks = [mark for mark in marks if low <= mark[0] <= high]
    if len(marks) < 2:
        return [(log10(place), text) for place, text in _ticks(10**low, 10**high)]
    whole = [mark for mark in marks if mark[0].is_integer()]
    return marks if len(marks) <= 6 else whole[:: ceil(len(whole) / 5)]
