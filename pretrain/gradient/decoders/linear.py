"""Decoders with interpretable weights: a dictionary of atoms, and a multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREE = 0.1  # initial norm of atoms that can have any norm: small, so that the initial atoms do not persist


class LinearDecoder(nn.Module):
    """Last map ``[B D h w]`` -> ``[B K side side]``: each position gives one cell, a sum of atoms, plus ``base``.

    ``weight`` ``[D K p p]`` holds the atoms, ``p = side / h``; a vector code has one cell, the whole image, and this is
    ``W`` of ``x ≈ W s``. With ``unit_norm``, atoms are divided by their norm whenever they are used, so that a
    penalized code cannot shrink while atoms grow.
    """

    def __init__(self, depth: int, map_side: int, channels: int, side: int, *, unit_norm: bool) -> None:
        super().__init__()
        self.cell, self.unit_norm = side // map_side, unit_norm
        shape = (channels, self.cell, self.cell)
        self.weight = nn.Parameter(F.normalize(torch.randn(depth, *shape).flatten(1), dim=1).view(depth, *shape))
        self.base = nn.Parameter(torch.zeros(shape))

    def no_weight_decay(self) -> set[str]:
        """``base`` is a bias, in the shape of an image."""
        return {"base"}

    @property
    def atoms(self) -> Tensor:
        """The atoms as they are used, ``[D K p p]``."""
        if not self.unit_norm:
            return self.weight
        return F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight)

    def fit(self, target: Tensor) -> None:
        """Initialize ``base`` with the mean cell of targets ``[N K side side]``, and atoms with cells minus that mean.

        Random initial atoms would keep their noise forever where images have no variance, such as in fine detail.
        """
        cells = target.unfold(2, self.cell, self.cell).unfold(3, self.cell, self.cell)
        cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # [n K p p]
        mean = cells.mean(0)
        rows = (cells[torch.randint(len(cells), (len(self.weight),)).to(cells.device)] - mean).flatten(1)
        rows = rows + 1e-6 * torch.randn_like(rows)  # a cell equal to the mean has no direction
        size = 1.0 if self.unit_norm else FREE
        with torch.no_grad():
            self.base.copy_(mean)
            self.weight.copy_((size * F.normalize(rows, dim=1)).view_as(self.weight))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``maps``: the output of ``encoder.layers``; only the last is used."""
        written = F.conv_transpose2d(maps[-1], self.atoms.to(maps[-1].dtype), stride=self.cell)
        cells = written.shape[2] // self.cell
        return written + self.base.to(written.dtype).repeat(1, cells, cells)


class MLPDecoder(nn.Module):
    """Last map, flattened, -> ``[B K side side]`` through hidden layers with GELU.

    With ``unit_norm`` the columns of every layer have unit norm, hidden layers included: otherwise a deeper layer
    could grow in place of the first.
    """

    def __init__(self, code: int, channels: int, side: int, *, hidden: list[int], unit_norm: bool) -> None:
        super().__init__()
        self.shape, self.unit_norm = (channels, side, side), unit_norm
        widths = [code, *hidden, channels * side**2]
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``maps``: the output of ``encoder.layers``; only the last is used."""
        x = maps[-1].flatten(1)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            weight = F.normalize(layer.weight, dim=0) if self.unit_norm else layer.weight
            x = F.linear(x if number == 0 else F.gelu(x), weight, layer.bias)
        return x.view(-1, *self.shape)
