"""First and second moments of a stream of rows, in float64, one batch after another.

A block of b rows with mean m and the n rows before it, with mean μ and scatter S = Σ (x - μ)(x - μ)ᵀ, are combined by

    δ = m - μ,     S += Σ_block (x - m)(x - m)ᵀ  +  n b / (n + b) δ δᵀ,     μ += b / (n + b) δ

(Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances"). Products
are of centered numbers only, so a mean far from zero loses no precision, unlike Σ x xᵀ - n μ μᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = 4096  # rows per product: enough to be fast, few enough that a float64 copy stays small


class Moments:
    """Count, mean and covariance of all rows added so far.

    ``count`` is the number of rows, ``mean`` their mean ``[d]``, float64.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        """``columns``: the length d of a row; ``device``: where the sums are kept."""
        if columns < 1:
            raise ValueError(f"rows need at least one column, not {columns}")
        self.count = 0
        self.mean = torch.zeros(columns, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(columns, columns, dtype=torch.float64, device=device)

    @property
    def columns(self) -> int:
        """The length d of a row."""
        return len(self.mean)

    def add(self, rows: Tensor) -> None:
        """Add rows ``[B d]`` of any real type and any B; the sums do not depend on how rows are split into calls.

        Raises:
            ValueError: another shape, or numbers that are not finite; nothing is added.
        """
        check_rows(rows, "rows", self.columns)
        for block in torch.split(rows, BLOCK) if len(rows) else ():
            x = block.to(self.mean.device, torch.float64)
            n, b = self.count, len(x)
            mean = x.mean(0)
            shift = mean - self.mean
            # δ is appended to the block as one more row: one product gives both terms, without a second [d d] matrix
            centered = torch.cat([x - mean, shift[None] * math.sqrt(n * b / (n + b))])
            self._scatter.addmm_(centered.T, centered)
            self.mean = self.mean + shift * (b / (n + b))
            self.count = n + b

    def covariance(self) -> Tensor:
        """The sample covariance S / (count - 1), float64 ``[d d]``: scikit-learn's and ``torch.cov``'s convention.

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows; {self.count} were added")
        return self._scatter / (self.count - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the complete state, by name; a run that loads it continues bit for bit."""
        return {"count": torch.tensor(self.count), "mean": self.mean.clone(), "scatter": self._scatter.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the moments from ``state``.

        Raises:
            ValueError: names, shapes or types differ from this object's own; nothing is changed.
        """
        check_state(self.state_dict(), state)
        self.count = int(state["count"])
        self.mean = state["mean"].to(self.mean.device, copy=True)
        self._scatter.copy_(state["scatter"])


class CrossMoments:
    """Moments of pairs: two views x ``[B d1]`` and y ``[B d2]`` of the same items, row by row.

    They are the moments of the concatenated rows (x, y), split into blocks on request.
    """

    def __init__(self, columns_x: int, columns_y: int, device: torch.device | str = "cpu") -> None:
        if min(columns_x, columns_y) < 1:
            raise ValueError(f"each view needs at least one column, not {columns_x} and {columns_y}")
        self.columns_x, self.columns_y = columns_x, columns_y
        self._joint = Moments(columns_x + columns_y, device)

    @property
    def count(self) -> int:
        """The number of pairs."""
        return self._joint.count

    @property
    def mean_x(self) -> Tensor:
        """Mean of the first view, float64 ``[d1]``."""
        return self._joint.mean[: self.columns_x]

    @property
    def mean_y(self) -> Tensor:
        """Mean of the second view, float64 ``[d2]``."""
        return self._joint.mean[self.columns_x :]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add pairs, x ``[B d1]`` and y ``[B d2]``.

        Raises:
            ValueError: other shapes, unequal numbers of rows, or numbers that are not finite; nothing is added.
        """
        check_rows(x, "x", self.columns_x)
        check_rows(y, "y", self.columns_y)
        if len(x) != len(y):
            raise ValueError(f"views come in pairs: x has {len(x)} rows, y has {len(y)}")
        self._joint.add(torch.cat([x.double(), y.to(x.device).double()], dim=1))

    def covariance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sample covariances Cxx ``[d1 d1]``, Cxy ``[d1 d2]``, Cyy ``[d2 d2]``, float64, divided by count - 1.

        Raises:
            ValueError: fewer than two pairs.
        """
        joint, cut = self._joint.covariance(), self.columns_x
        return joint[:cut, :cut], joint[:cut, cut:], joint[cut:, cut:]

    def state_dict(self) -> dict[str, Tensor]:
        """As :meth:`Moments.state`, with the lengths of the two views as ``columns``."""
        return {**self._joint.state_dict(), "columns": torch.tensor([self.columns_x, self.columns_y])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As :meth:`Moments.load`; a state of views of other lengths is refused too."""
        check_state(self.state_dict(), state)
        if (columns := state["columns"].tolist()) != [self.columns_x, self.columns_y]:
            raise ValueError(f"state: views of {columns} columns, not of {[self.columns_x, self.columns_y]}")
        self._joint.load_state_dict({name: tensor for name, tensor in state.items() if name != "columns"})


def check_rows(rows: Tensor, name: str, columns: int | None = None) -> None:
    """Raise ``ValueError`` unless these are finite rows ``[n d]``, with ``columns`` columns if given."""
    if rows.ndim != 2 or rows.shape[1] < 1 or (columns is not None and rows.shape[1] != columns):
        raise ValueError(f"{name} must be [rows {columns or 'columns'}], not {list(rows.shape)}")
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} contain numbers that are not finite")


def check_state(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise one ``ValueError`` that lists all names, shapes and types that differ from ``own``."""
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in own]
    for name in (name for name in own if name in given):
        want, got = own[name], given[name]
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            problems.append(f"{name} is {list(got.shape)} {got.dtype}, not {list(want.shape)} {want.dtype}")
    if problems:
        raise ValueError("state: " + "; ".join(problems))
