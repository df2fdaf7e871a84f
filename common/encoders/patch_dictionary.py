"""The classical single-layer network: patches at every position, coded in a dictionary, pooled over a grid.

Coates, Ng and Lee 2011, *An analysis of single-layer networks in unsupervised feature learning*. For the patch ``x`` at
each position:

    n(x) = (x - mean(x)) / sqrt(var(x) + contrast)         normalize mean and contrast
    y = P (n(x) - m)                                       whiten with the training patches' statistics
    z = Dᵀ y                                               correlate with unit-norm atoms
    code = max(z - t, 0) and max(-z - t, 0)                two-sided soft threshold; or top-k, lasso, triangle
    map = average of the code over each cell of a grid

Whitening is folded into the filters ``PᵀD``, so a position costs one product. Code maps are 25 times larger than an
image's patches: they are computed and pooled a few images at a time, while they are in the cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from common.config import Config, validate
from common.encoders.base import Encoder, View, check_own
from common.encoders.config import EncoderConfig
from common.solvers import fista, top_k

# Entries of a code map per chunk: what stays in the cache of a CPU, and what fills a GPU.
CHUNK = {"cpu": 1 << 20, "cuda": 1 << 27}


class PatchDictionaryArgs(Config):
    """Settings of ``patch_dictionary``, given as ``encoder.model_args``.

    Codes: ``threshold`` is two-sided, ``top_k`` keeps the k largest per position by magnitude, ``lasso`` minimizes
    ``‖y - D s‖² + l1 ‖s‖₁`` by FISTA. Positive and negative parts are separate channels. ``triangle`` (how much closer
    an atom is than the average one) is Coates's soft k-means with other centroids: theirs are means of patches, of any
    norm and sign; here they are the unit-norm atoms and their negatives, since an atom stands for both. A patch of much
    larger norm is about equally far from all: its code is then nearly ``max(z, 0) / ‖y‖``, the patch's shape without
    its contrast.

    Mirrored atoms: a feature is the sum of an atom's response and its mirror's in the mirrored cell, so it is exactly
    invariant to horizontal flips, with half the features. A classifier trained on mirrored images too would weight the
    two equally anyway.
    """

    atoms: int = Field(default=400, ge=2, le=1 << 16)
    """Filters applied at every position, including mirrored ones."""
    patch: int = Field(default=6, ge=2, le=64)
    """Side of a patch in pixels."""
    code: Literal["threshold", "top_k", "lasso", "triangle"] = "threshold"
    """How responses become a code."""
    threshold: float = Field(default=0.25, ge=0, le=1000)
    """Responses below it are 0, with code=threshold."""
    top_k: int = Field(default=16, gt=0, le=1 << 16)
    """Non-zeros per position, with code=top_k."""
    l1: float = Field(default=0.5, ge=1e-6, le=1e6)
    """λ, with code=lasso."""
    grid: int = Field(default=2, ge=1, le=16)
    """Cells per side over which the code is averaged."""
    mirror: bool = True
    """Half of the atoms are mirror images of the other half."""
    contrast: float = Field(default=1.5e-4, ge=1e-12, le=100)
    """Added to a patch's variance (pixels in [0, 1]) before dividing by it; keeps the noise of flat patches small."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mirror and self.atoms % 2:
            raise ValueError(f"mirror needs an even number of atoms, not {self.atoms}")
        if self.code == "top_k" and self.top_k > self.atoms:
            raise ValueError(f"top_k {self.top_k} exceeds the number of atoms ({self.atoms})")
        return self

    @property
    def learned(self) -> int:
        """Number of learned atoms; mirrored ones are derived."""
        return self.atoms // 2 if self.mirror else self.atoms

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return 2 * self.learned


class PatchDictionary(Encoder):
    """Images -> ``[B channels grid grid]``; images of any size, at least one patch wide.

    Buffers: ``dictionary`` ``[learned d]``, unit rows in whitened space, ``d = 3 patch²``; ``whiten`` ``[d d]``,
    symmetric; ``patch_mean`` ``[d]``, of normalized patches.
    """

    statistics = ("whiten", "patch_mean")
    dictionary: Tensor
    whiten: Tensor
    patch_mean: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        check_own(config, mask_channel)
        args = validate(PatchDictionaryArgs, config.model_args, "encoder.model_args")
        super().__init__(config.name, image_size, view, mask_channel, mean=(0, 0, 0), std=(1, 1, 1))
        positions = image_size - args.patch + 1
        if positions < args.grid:
            raise self.refusal(
                f"patches of {args.patch} px leave {positions} positions per side for a grid of {args.grid}"
            )
        self.args = args
        self.config = config.model_copy(update={"model_args": args.model_dump(), "stem": "default"})
        d = 3 * args.patch**2
        self.register_buffer("dictionary", normalize(torch.randn(args.learned, d), dim=1))
        self.register_buffer("whiten", torch.eye(d))
        self.register_buffer("patch_mean", torch.zeros(d))
        self.settle()

    @property
    def iterates(self) -> bool:
        return self.args.code == "lasso"

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> ``[[B channels grid grid]]``, float32."""
        images = self.prepare(images).float()
        if min(images.shape[2:]) < self.args.patch:
            raise ValueError(f"patches of {self.args.patch} px do not fit into {images.shape[2]}x{images.shape[3]} px")
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        with torch.autocast(device, enabled=False):
            return [self._arranged(self._maps(images, dtype))]

    def signed(self, patches: Tensor) -> Tensor:
        """Patches ``[n 3 p p]``, RGB in [0, 1] -> signed codes, positive minus negative part, ``[n atoms]``, float32.

        In the order of ``full_dictionary``: with ``mirror``, the second half belongs to the mirrored atoms.
        """
        maps = self._maps(self.prepare(patches).float(), torch.float32)[
            :, :, 0
        ]  # one position, so every cell of the grid is equal
        return maps[:, 0] - maps[:, 1]

    def patches(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> normalized patches ``[B n d]`` (row-major), not yet whitened."""
        p = self.args.patch
        d = 3 * p * p
        gray = images.mean(1, keepdim=True)
        mean = avg_pool2d(gray, p, 1)
        variance = avg_pool2d(images.square().mean(1, keepdim=True), p, 1) - mean.square()
        scale = (variance.clamp_min_(0) + self.args.contrast).rsqrt_()
        windows = images.unfold(2, p, 1).unfold(3, p, 1).permute(0, 2, 3, 1, 4, 5)  # [B h w 3 p p], a view
        # always a copy: for images of exactly one patch, a reshape would be a view of the caller's tensor
        rows = windows.clone(memory_format=torch.contiguous_format).view(images.shape[0], mean[0].numel(), d)
        return rows.sub_(mean.flatten(1)[:, :, None]).mul_(scale.flatten(1)[:, :, None])

    def filters(self) -> tuple[Tensor, Tensor]:
        """Filters ``[d atoms]`` for normalized patches and their biases ``[atoms]``: whitening folded in."""
        weight = self.whiten @ self.full_dictionary().T
        return weight, -(self.patch_mean @ weight)

    def full_dictionary(self) -> Tensor:
        """All atoms ``[atoms d]`` in whitened space, mirrored ones last."""
        own = self.dictionary
        return torch.cat([own, mirrored(own)]) if self.args.mirror else own

    def atoms(self) -> Tensor:
        """Each atom in pixel space: the patch that whitening maps to it, ``[learned 3 p p]``."""
        back = torch.linalg.pinv(self.whiten.double(), rtol=1e-6).to(self.dictionary)
        p = self.args.patch
        pixels: Tensor = self.dictionary @ back
        return pixels.view(-1, 3, p, p)

    def _maps(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Prepared images ``[B 3 H W]`` -> pooled codes ``[B signs cells atoms]``, float32, computed in ``dtype``."""
        height, width = (side - self.args.patch + 1 for side in images.shape[2:])
        pool = self._pooling(height, width, images.device)
        chunk = CHUNK["cpu" if images.device.type == "cpu" else "cuda"]
        size = max(1, chunk // (height * width * self.args.atoms))
        weight, bias = self.filters()
        coder = _CODERS[self.args.code](self, weight, bias, pool, dtype)
        return torch.cat([coder(rows) for rows in self._chunks(images, size)])

    def _chunks(self, images: Tensor, size: int) -> Iterator[Tensor]:
        if torch.compiler.is_exporting():  # a graph for batches of any size has no loop over their parts
            yield self.patches(images)
            return
        # patches are small compared with code maps: cutting them for several chunks at once saves calls
        for part in torch.split(images, 16 * size):
            yield from torch.split(self.patches(part), size)

    def _pooling(self, height: int, width: int, device: torch.device) -> Tensor:
        """The average over each cell as a matrix ``[grid² height*width]``; cells as in ``adaptive_avg_pool2d``."""
        rows, columns = (_cells(side, self.args.grid, device) for side in (height, width))
        return torch.einsum("ih,jw->ijhw", rows, columns).reshape(self.args.grid**2, height * width)

    def _arranged(self, maps: Tensor) -> Tensor:
        """``[B signs cells atoms]`` -> ``[B channels grid grid]``; an atom and its mirror add up in mirrored cells."""
        g = self.args.grid
        maps = maps.view(*maps.shape[:2], g, g, maps.shape[3])
        if self.args.mirror:
            own, mirror = torch.split(maps, self.args.learned, dim=4)
            maps = own + mirror.flip(3)
        return maps.permute(0, 1, 4, 2, 3).reshape(maps.shape[0], -1, g, g)


def mirrored(filters: Tensor) -> Tensor:
    """Filters or patches ``[n 3pp]`` with left and right exchanged."""
    side = round((filters.shape[1] / 3) ** 0.5)
    return filters.view(len(filters), 3, side, side).flip(3).reshape(filters.shape)


def _cells(side: int, grid: int, device: torch.device) -> Tensor:
    """``[grid side]``: each row averages the positions of one cell."""
    cells = torch.zeros(grid, side, device=device)
    for index in range(grid):
        first, last = index * side // grid, -(-(index + 1) * side // grid)
        cells[index, first:last] = 1 / (last - first)
    return cells


class _Coder(ABC):
    """Normalized patches of a few images ``[c n d]`` -> their pooled code ``[c signs cells atoms]``, float32."""

    def __init__(
        self, encoder: PatchDictionary, weight: Tensor, bias: Tensor, pool: Tensor, dtype: torch.dtype
    ) -> None:
        self.encoder, self.args, self.dtype = encoder, encoder.args, dtype
        self.pool = pool.to(dtype)
        # a last column of ones includes the bias in the product: one pass over the code map less
        self.weight = torch.cat([weight, self.shifted(bias)[None]]).to(dtype)

    def shifted(self, bias: Tensor) -> Tensor:
        """The bias that the product adds."""
        return bias

    def __call__(self, rows: Tensor) -> Tensor:
        c, n, d = rows.shape
        with_one = rows.new_ones(c, n, d + 1)
        with_one[..., :d] = rows
        z = (with_one.to(self.dtype).view(c * n, d + 1) @ self.weight).view(c, n, -1)
        return self.code(z, rows)

    @abstractmethod
    def code(self, z: Tensor, rows: Tensor) -> Tensor:
        """Responses ``[c n atoms]`` (which may be overwritten) and patches ``[c n d]`` -> pooled codes."""

    def signs(self, codes: Tensor) -> Tensor:
        """Signed codes ``[c n atoms]`` -> pooled positive and negative parts ``[c 2 cells atoms]``."""
        positive = torch.matmul(self.pool, codes.clamp_min(0)).float()
        return torch.stack([positive, positive - torch.matmul(self.pool, codes).float()], dim=1)


class _Threshold(_Coder):
    def shifted(self, bias: Tensor) -> Tensor:
        return bias - self.args.threshold  # the product gives z - t

    def code(self, z: Tensor, rows: Tensor) -> Tensor:
        twice = 2 * self.args.threshold
        positive = torch.matmul(self.pool, z.clamp_min(0))
        # max(-z - t, 0) = -min(z - t, -2t) - 2t, and the weights of a cell sum to 1
        negative = torch.matmul(self.pool, z.clamp_max_(-twice))
        return torch.stack([positive.float(), (-negative.float()).sub_(twice).clamp_min_(0)], dim=1)


class _TopK(_Coder):
    def code(self, z: Tensor, rows: Tensor) -> Tensor:
        return self.signs(top_k(z, self.args.top_k))


class _Lasso(_Coder):
    def code(self, z: Tensor, rows: Tensor) -> Tensor:
        y = (rows - self.encoder.patch_mean) @ self.encoder.whiten
        codes = fista(y.flatten(0, 1), self.encoder.full_dictionary().T.contiguous(), self.args.l1)
        return self.signs(codes.view(z.shape).to(self.dtype))


class _Triangle(_Coder):
    def code(self, z: Tensor, rows: Tensor) -> Tensor:
        y = (rows - self.encoder.patch_mean) @ self.encoder.whiten
        square, z = y.square().sum(2, keepdim=True) + 1, z.float()  # atoms have norm 1
        to, away = ((square - sign * 2 * z).clamp_min_(0).sqrt_() for sign in (1, -1))  # ‖y - d‖ and ‖y + d‖
        average = (to.mean(2, keepdim=True) + away.mean(2, keepdim=True)) / 2
        nearer = torch.stack([average - to, average - away], dim=1).clamp_min_(0)  # [c 2 n atoms]
        return torch.matmul(self.pool.float(), nearer)


_CODERS: dict[str, type[_Coder]] = {"threshold": _Threshold, "top_k": _TopK, "lasso": _Lasso, "triangle": _Triangle}
