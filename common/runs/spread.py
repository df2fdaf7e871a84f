"""A number over several seeds: mean, standard deviation and interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from rich.markup import escape
from rich.table import Table

from common.runs.results import Record


class Spread(Record):
    """One number, measured once with each seed."""

    values: tuple[float, ...]  # in the order of the seeds, at least two
    mean: float
    deviation: float  # standard deviation of the values, with n - 1
    ci95: tuple[float, float]  # of the mean, by Student's t: for values that are about normal

    @property
    def text(self) -> str:
        """``27.12 ± 0.31``: mean and standard deviation."""
        return f"{self.mean:.4g} ± {self.deviation:.2g}"

    @property
    def interval(self) -> str:
        """``[26.35, 27.89]``: of the mean."""
        return f"[{self.ci95[0]:.4g}, {self.ci95[1]:.4g}]"

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize two values or more.

        Raises:
            ValueError: there are fewer.
        """
        from scipy.stats import t  # takes a second to import

        n = len(values)
        if n < 2:
            raise ValueError(f"a spread needs at least two values, got {n}")
        mean, deviation = fmean(values), stdev(values)
        half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return cls(values=tuple(values), mean=mean, deviation=deviation, ci95=(mean - half, mean + half))


def spread_table(title: str, spreads: Mapping[str, Spread]) -> Table:
    """Numbers by name: mean, standard deviation, 95% interval of the mean, least and most."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("", "mean ± standard deviation", "95% interval of the mean", "least", "most"):
        table.add_column(column)
    for name, one in spreads.items():
        ends = (f"{min(one.values):.4g}", f"{max(one.values):.4g}")
        table.add_row(escape(name), one.text, escape(one.interval), *ends)
    return table
