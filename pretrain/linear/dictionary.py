"""The dictionary step of sparse coding: the codes are given, the atoms are optimized.

For rows ``x_i`` (d numbers), codes ``s_i`` (h numbers) and a dictionary ``W`` ``[d h]``, atoms in its columns:

    minimize over W   1/N Σ_i ‖x_i − W s_i‖²  +  γ ‖W‖²_F   =   tr(W A Wᵀ) − 2 tr(WᵀB) + γ ‖W‖²_F + constant,

    A = 1/N Σ_i s_i s_iᵀ  [h h],    B = 1/N Σ_i x_i s_iᵀ  [d h],

with γ > 0, or with γ = 0 and every atom of unit norm. Rows enter only through A and B, so these can be accumulated over
minibatches (Mairal, Bach, Ponce & Sapiro 2010, "Online learning for matrix factorization and sparse coding").
Everything here is a function of its arguments: a run that saves A, B and W continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.solvers.l0 import check_unit_norm
from common.solvers.problem import check_problem, squared_error
from pretrain.linear.moments import check_state

BLOCK = 32  # atoms that are corrected one by one; between blocks the correction is one product
STAY = 1e-6  # weight that keeps an atom where it is, relative to A_jj
UNUSED = 1e-6  # an atom is unused when its mean squared code is below this share of the mean over atoms
NOISE = 0.01  # relative noise added to a row that becomes an atom, so that no two atoms are the same


def dictionary_objective(dictionary: Tensor, codes_gram: Tensor, cross: Tensor, *, gamma: float = 0.0) -> Tensor:
    """``tr(W A Wᵀ) − 2 tr(WᵀB) + γ ‖W‖²_F``, float64 scalar: the objective minus the mean of ``‖x‖²``.

    Raises:
        ValueError: shapes do not match.
    """
    _check_statistics(dictionary, codes_gram, cross)
    W, A, B = dictionary.double(), codes_gram.double(), cross.double()
    return ((W @ A - 2 * B) * W).sum() + gamma * W.square().sum()


def update_dictionary(
    dictionary: Tensor,
    codes_gram: Tensor,
    cross: Tensor,
    *,
    gamma: float = 0.0,
    unit_norm: bool = True,
    sweeps: int = 1,
) -> Tensor:
    """The next dictionary ``[d h]``; apart from rounding, its objective is never higher than before.

    Without ``unit_norm``, the minimizer in closed form, ``W = B (A + γ I)⁻¹``, in float64.

    With ``unit_norm``, block coordinate descent (Mairal et al. 2010, algorithm 2): for one atom, the others fixed, the
    objective is ``A_jj ‖w‖² − 2 w·c`` with ``c = b_j − Σ_{k≠j} A_jk w_k``. On the sphere the first term is constant, so
    ``w = c / ‖c‖`` is the exact minimizer. Mairal et al. and scikit-learn project onto the unit ball instead,
    which is convex and gives the same atom if ``‖c‖ >= A_jj``. But with a penalty on the codes an atom inside the ball
    is never optimal (a longer atom gives the same with a shorter code), and OMP needs unit atoms. Unused atoms
    (``A_jj <= UNUSED`` mean ``A_kk``) do not change: see ``replace_unused``.

    Args:
        dictionary: W ``[d h]``, float32 or float64; of unit norm with ``unit_norm``.
        codes_gram: A ``[h h]``, symmetric.
        cross: B ``[d h]``.
        gamma: γ; positive without ``unit_norm``, 0 with it.
        unit_norm: keep every atom on the unit sphere.
        sweeps: passes over all atoms, with ``unit_norm``.

    Raises:
        ValueError: shapes do not match, atoms do not have unit norm, or ``gamma`` contradicts ``unit_norm``.
    """
    _check_statistics(dictionary, codes_gram, cross)
    if unit_norm and gamma != 0:
        raise ValueError(f"gamma is {gamma}, but the norm of unit-norm atoms cannot be penalized: set unit_norm=False")
    if not unit_norm and not 0 < gamma < float("inf"):
        raise ValueError(f"gamma must be a positive number without unit_norm, not {gamma}")
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, not {sweeps}")
    if not unit_norm:
        ridge = codes_gram.double() + gamma * torch.eye(len(codes_gram), dtype=torch.float64, device=codes_gram.device)
        factor = torch.linalg.cholesky(ridge)  # exists: A is positive semi-definite, γ > 0
        return torch.cholesky_solve(cross.double().T, factor).T.contiguous().to(dictionary.dtype)
    check_unit_norm(dictionary)
    atoms = dictionary.T.contiguous()  # [h d]: each atom is contiguous
    A, B = codes_gram.to(atoms.dtype), cross.T.to(atoms.dtype)
    for _ in range(sweeps):
        _sweep(atoms, A, B)
    return atoms.T.contiguous()


def unused_atoms(use: Tensor) -> Tensor:
    """The atoms that almost no code uses, bool ``[h]``; ``use`` ``[h]`` is the mean squared code, the diagonal of A."""
    return use <= UNUSED * use.mean()


def worst_reconstructed(x: Tensor, dictionary: Tensor, codes: Tensor, count: int) -> Tensor:
    """The ``count`` rows of ``x`` ``[B d]`` (or all, if fewer) with the largest ``‖x − W s‖²``, the worst first.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    check_problem(x, dictionary, codes)
    error = squared_error(x, dictionary, codes)
    return x[error.sort(descending=True, stable=True).indices[:count]]


def replace_unused(dictionary: Tensor, use: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """The dictionary ``[d h]`` with its unused atoms replaced by normalized rows; deterministic.

    The statistics of the replaced atoms are out of date: call ``DictionaryStatistics.forget``.

    Args:
        dictionary: ``[d h]``.
        use: mean squared code of every atom, ``[h]``; see ``unused_atoms``.
        candidates: rows ``[n d]``, for example from ``worst_reconstructed``; used in order, and repeatedly if they are
            fewer than the unused atoms. Rows of zeros are skipped.
        generator: draws the noise that distinguishes copies of a row. It is not used if no atom is unused.

    Raises:
        ValueError: shapes do not match, or there is no usable row.
    """
    if dictionary.ndim != 2 or use.shape != dictionary.shape[1:] or candidates.shape[1:] != dictionary.shape[:1]:
        raise ValueError(
            f"expected a dictionary [d h], use [h] and candidates [n d], got "
            f"{list(dictionary.shape)}, {list(use.shape)} and {list(candidates.shape)}"
        )
    dead = unused_atoms(use).nonzero()[:, 0]
    if not len(dead):
        return dictionary.clone()
    norms = candidates.norm(dim=1, keepdim=True)
    rows = (candidates / norms)[norms[:, 0] > 0]
    if not len(rows):
        raise ValueError(f"{len(dead)} atoms are unused, but all candidate rows are zero")
    chosen = rows[torch.arange(len(dead), device=rows.device) % len(rows)].to(dictionary)
    noise = torch.randn(chosen.shape, generator=generator, dtype=chosen.dtype, device=generator.device).to(
        chosen.device
    )
    chosen = chosen + noise * (NOISE / chosen.shape[1] ** 0.5)
    fresh = dictionary.clone()
    fresh[:, dead] = (chosen / chosen.norm(dim=1, keepdim=True)).T
    return fresh


class DictionaryStatistics:
    """Running A and B over minibatches. Early codes, from a poor dictionary, are gradually forgotten.

    The t-th minibatch (t = 1, 2, ...) scales the earlier sums by ``β_t = (1 − 1/t)^ρ`` (Mairal et al. 2010, section
    3.4, "Scaling the past data"): minibatch i then has weight ``(i/t)^ρ``, so the memory covers about the last
    ``t / (ρ + 1)`` minibatches. ρ = 0 is the plain mean of all rows. Sums are float64, stored with their total weight.

    Args:
        d: length of a row.
        h: number of atoms.
        forgetting: ρ, at least 0.
        device: where the sums are kept.

    Raises:
        ValueError: ρ is negative.
    """

    def __init__(self, d: int, h: int, *, forgetting: float = 2.0, device: torch.device | str = "cpu") -> None:
        if not 0 <= forgetting < float("inf"):
            raise ValueError(f"forgetting must be a finite number of at least 0, not {forgetting}")
        self.forgetting = forgetting
        self._sums = {
            "codes_gram": torch.zeros(h, h, dtype=torch.float64, device=device),
            "cross": torch.zeros(d, h, dtype=torch.float64, device=device),
            "weight": torch.zeros((), dtype=torch.float64),
            "batches": torch.zeros((), dtype=torch.int64),
        }

    def add(self, x: Tensor, codes: Tensor) -> None:
        """Add a minibatch: rows ``[b d]`` and their codes ``[b h]``.

        Raises:
            ValueError: shapes do not match.
        """
        d, h = self._sums["cross"].shape
        if x.ndim != 2 or x.shape[1] != d or codes.shape != (len(x), h):
            raise ValueError(f"expected rows [b {d}] and codes [b {h}], got {list(x.shape)} and {list(codes.shape)}")
        t = int(self._sums["batches"]) + 1
        beta = (1 - 1 / t) ** self.forgetting if self.forgetting else 1.0
        self._sums["batches"] += 1
        self._sums["weight"].mul_(beta).add_(len(x))
        self._sums["codes_gram"].mul_(beta).add_(codes.T @ codes)
        self._sums["cross"].mul_(beta).add_(x.T @ codes)

    @property
    def codes_gram(self) -> Tensor:
        """A, the mean of ``s sᵀ``: float64 ``[h h]``."""
        return self._sums["codes_gram"] / self._sums["weight"].clamp_min(1).item()

    @property
    def cross(self) -> Tensor:
        """B, the mean of ``x sᵀ``: float64 ``[d h]``."""
        return self._sums["cross"] / self._sums["weight"].clamp_min(1).item()

    @property
    def use(self) -> Tensor:
        """Mean squared code of every atom, float64 ``[h]``."""
        return self._sums["codes_gram"].diagonal() / self._sums["weight"].clamp_min(1).item()

    def forget(self, atoms: Tensor) -> None:
        """Discard the statistics of some atoms, bool ``[h]``, because they were replaced."""
        self._sums["codes_gram"][atoms] = 0
        self._sums["codes_gram"][:, atoms] = 0
        self._sums["cross"][:, atoms] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The complete state for a checkpoint, as tensors; later minibatches do not change them."""
        return {name: value.clone() for name, value in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from ``state_dict()``.

        Raises:
            ValueError: names, shapes or types differ from these statistics' own; nothing is changed.
        """
        check_state(self._sums, state)
        for name, value in self._sums.items():
            value.copy_(state[name])


def _sweep(atoms: Tensor, A: Tensor, B: Tensor) -> None:
    """Set every atom to its minimizer in turn, in place: atoms ``[h d]``, A ``[h h]``, B ``[h d]``.

    ``c = R_j + A_jj w_j`` with ``R = B − A W``. Within a block of atoms, R is updated by rank-one corrections, and
    for the next block by one product, so nearly all the work is matrix products. ``STAY`` adds
    ``STAY A_jj ‖w − w_j‖²`` to the objective of an atom: steps still never go uphill, and an atom that is as good as
    any other (c = 0) stays, without a check of c that a GPU would have to wait for.
    """
    diagonal = A.diagonal()
    floor, scale = UNUSED * float(diagonal.mean()), diagonal.tolist()  # read once: each read waits for a GPU
    for start in range(0, len(atoms), BLOCK):
        rows = slice(start, start + BLOCK)
        R = torch.addmm(B[rows], A[rows], atoms, alpha=-1)
        correlations = A[rows, rows].contiguous().unbind()
        for j, (w, rest) in enumerate(zip(atoms[rows].unbind(), R.unbind(), strict=True)):
            if scale[start + j] <= floor:
                continue
            c = torch.add(rest, w, alpha=scale[start + j] * (1 + STAY))
            c /= torch.linalg.vector_norm(c)
            change = c - w
            w.copy_(c)
            R.addr_(correlations[j], change, alpha=-1)


def _check_statistics(dictionary: Tensor, codes_gram: Tensor, cross: Tensor) -> None:
    if dictionary.ndim != 2 or cross.shape != dictionary.shape or codes_gram.shape != 2 * dictionary.shape[1:]:
        raise ValueError(
            f"expected a dictionary [d h], a Gram matrix of codes [h h] and a cross product [d h], got "
            f"{list(dictionary.shape)}, {list(codes_gram.shape)} and {list(cross.shape)}"
        )
    if dictionary.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a dictionary must be float32 or float64, not {dictionary.dtype}")
