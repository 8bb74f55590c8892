"""A picture of ratios: a row for each case, a dot for each target tzfs is compared with. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measuring import Book


def draw(path: Path, book: Book, labels: dict[str, list[str]]) -> None:
    """Draw the ratios of all parts that compare; the format follows the file's suffix."""
    import matplotlib as mpl  # noqa: PLC0415 - the extra `bench`, which tables do not need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    parts = {title: cases for title, cases in book.items() if len(labels[title]) > 1}
    if not parts:
        return
    rows = [len(cases) for cases in parts.values()]
    figure, axes = plt.subplots(
        len(parts), 1, figsize=(9, 1.2 * len(parts) + 0.24 * sum(rows)), height_ratios=rows, squeeze=False
    )
    colours: dict[str, str] = {}
    for (title, cases), axis in zip(parts.items(), axes[:, 0], strict=True):
        first, *others = labels[title]
        for other in others:
            colour = colours.setdefault(other, f"C{len(colours)}")
            points = [(case.ratio(first, other), row) for row, case in enumerate(cases.values())]
            known = [(ratio, row) for ratio, row in points if ratio is not None]
            axis.plot([x for x, _ in known], [y for _, y in known], "o", color=colour, label=other)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yticks(range(len(cases)), list(cases), fontsize=8)
        axis.invert_yaxis()
        axis.grid(visible=True, axis="x", which="both", linewidth=0.3)
        axis.set_title(
            f"{title}: time of {first} as a multiple of each other's (left of 1: it is ahead)", fontsize=9
        )
        axis.legend(fontsize=8, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
