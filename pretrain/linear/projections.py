"""PCA, ICA and CCA as encoders of small images: ``s = V (x - mean)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.corruptions import AnyCorruption, Gaussian
from common.encoders import Encoder, EncoderConfig
from common.encoders.linear import Linear
from common.engine.learner import Named
from common.machine.memory import available_memory, readable_size
from pretrain.linear.base import Fit, FitLearner, check_components
from pretrain.linear.cca import cca
from pretrain.linear.ica import ica
from pretrain.linear.moments import CrossMoments, Moments
from pretrain.linear.pca import pca
from pretrain.linear.projection import Projection
from pretrain.linear.told import told
from pretrain.report.explained import Explained

COPIES = 6  # of the moments, in memory at once while they are solved: 5.2 measured for PCA, 5.5 for CCA


class _Projected(Fit):
    """Whatever gives a ``linear`` encoder of ``components`` numbers, from float64 moments of the pixels.

    Attributes:
        moment_views: images whose pixels make one row of the moments.
    """

    moment_views: ClassVar[int] = 1
    components: int = Field(default=64, ge=1, le=1 << 14)

    def check(self, image_size: int, images: int) -> list[str]:
        return check_components(self.components, image_size, images) + self._room(image_size)

    def _room(self, image_size: int) -> list[str]:
        """Why moments of so large images have no room in memory; or nothing."""
        columns, free = self.moment_views * 3 * image_size**2, available_memory()
        if (need := 8 * COPIES * columns**2) <= free:
            return []
        most = int((free / (8 * COPIES)) ** 0.25 / (3 * self.moment_views) ** 0.5)
        return [
            f"fit.kind={self.kind} at {image_size} px solves for moments of {columns:,} x {columns:,} numbers, which "
            f"takes {readable_size(need)} of memory, and {readable_size(free)} are free; "
            f"lower data.image_size, to {most} at most"
        ]

    def encoder_config(self) -> EncoderConfig:
        return EncoderConfig(name="linear", model_args={"code": self.components})


class Pca(_Projected):
    """Principal components: the projection that gives back most variance. One pass, float64 moments."""

    kind: Literal["pca"] = "pca"
    one_pass: ClassVar[bool] = True
    whiten: bool = False  # scale every component to variance 1

    def learner(self, encoder: Encoder, seed: int, total: int) -> FitLearner:
        return _PcaLearner(encoder, self, total)


class Ica(_Projected):
    """Independent components, by scikit-learn's FastICA on a bounded sample; a resumed run fits it again.

    Attributes:
        sample: images it is fitted on at most, drawn at random by the seed.
    """

    kind: Literal["ica"] = "ica"
    sample: int = Field(default=20_000, ge=2)
    max_steps: int = Field(default=200, gt=0)
    tolerance: float = Field(default=1e-4, gt=0)

    @property
    def streams(self) -> bool:
        return False

    def sample_rows(self, images: int, seed: int) -> Tensor:
        drawn = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[: self.sample]
        return drawn.sort().values  # in the source's order, which reads quicker

    def check(self, image_size: int, images: int) -> list[str]:
        if self.sample < images and self.sample <= self.components:
            return [f"fit.components={self.components}: it takes more images than fit.sample={self.sample}; raise it"]
        return super().check(image_size, images)

    def learner(self, encoder: Encoder, seed: int, total: int) -> FitLearner:
        return _IcaLearner(encoder, self, seed)


class Cca(_Projected):
    """Canonical correlations of two views: what of one can be told from the other. One pass, float64 moments.

    Attributes:
        views: ``damage``: an image and the same image damaged; ``neighbours``: two patches side by side, cut from
            images of twice the size; ``other``: the row of the same number in the second source (``data.other``).
        damage: of the second view.
        ridge: added to each view's covariance, relative to its mean variance.
    """

    kind: Literal["cca"] = "cca"
    one_pass: ClassVar[bool] = True
    moment_views: ClassVar[int] = 2
    views: Literal["damage", "neighbours", "other"] = "damage"
    damage: AnyCorruption = Gaussian()
    ridge: float = Field(default=1e-3, ge=0)

    @model_validator(mode="after")
    def _damage_is_used(self) -> Self:
        if self.views != "damage" and self.damage != Gaussian():
            raise ValueError(f"damage is for views=damage, not views={self.views}: leave it out")
        return self

    def loaded_size(self, image_size: int) -> int:
        return 2 * image_size if self.views == "neighbours" else image_size

    def learner(self, encoder: Encoder, seed: int, total: int) -> FitLearner:
        return _CcaLearner(encoder, self, total)


class _ProjectionLearner(FitLearner):
    """Ends by putting a ``Projection`` into a ``linear`` encoder; ``back`` ``[d h]`` is kept for pictures."""

    encoder: Linear
    back: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        assert isinstance(encoder, Linear)
        self.encoder = encoder
        self.model.register_buffer("back", encoder.code.weight.detach().T.clone())

    def settle(self, projection: Projection) -> None:
        """Take over a fitted projection."""
        with torch.no_grad():
            self.encoder.centre.copy_(projection.mean)
            self.encoder.code.weight.copy_(projection.weight)
            self.model.get_buffer("back").copy_(projection.back)

    def rows(self, images: Tensor) -> Tensor:
        """Images as rows, nothing subtracted yet, ``[B d]``."""
        return self.encoder.prepare(images).flatten(1)

    def reconstruct(self, images: Tensor) -> Tensor:
        back = self.model.get_buffer("back")
        codes = self.encoder(images).flatten(1).float()
        rows: Tensor = self.encoder.centre + codes @ back.T
        return rows.view(images.shape)

    def explain(self, images: Tensor) -> Explained:
        atoms = self.model.get_buffer("back").T.reshape(-1, *images.shape[1:])
        return Explained(atoms, self.encoder(images).flatten(1).float(), images)


class _PcaLearner(_ProjectionLearner):
    def __init__(self, encoder: Encoder, fit: Pca, total: int) -> None:
        super().__init__(encoder)
        self.fit, self.total = fit, total
        self.moments = Moments(self.encoder.dimension)

    def to(self, device: torch.device) -> None:
        super().to(device)
        if self.moments.count == 0:
            self.moments = Moments(self.encoder.dimension, device)

    def learn(self, images: Tensor, step: int) -> tuple[Named, Named]:
        # the stream goes on into the next epoch: no image counts twice
        self.moments.add(self.rows(images)[: max(0, self.total - self.moments.count)])
        return {}, {}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {**super().tensors(), "moments": self.moments.state()}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        self.moments.load(dict(groups["moments"]))

    def finish(self) -> None:
        self.settle(told("pca", lambda: pca(self.moments, self.fit.components, whiten=self.fit.whiten)))


class _IcaLearner(_ProjectionLearner):
    def __init__(self, encoder: Encoder, fit: Ica, seed: int) -> None:
        super().__init__(encoder)
        self.fit, self.seed = fit, seed

    def start(self, sample: Tensor, other: Tensor | None) -> None:
        fit = self.fit
        rows = self.rows(sample)
        projection = told(
            "ica", lambda: ica(rows, fit.components, seed=self.seed, max_steps=fit.max_steps, tolerance=fit.tolerance)
        )
        self.settle(projection)

    def learn(self, images: Tensor, step: int) -> tuple[Named, Named]:
        raise AssertionError("ICA does not stream")


class _CcaLearner(_ProjectionLearner):
    def __init__(self, encoder: Encoder, fit: Cca, total: int) -> None:
        super().__init__(encoder)
        self.fit, self.total = fit, total
        self.moments = CrossMoments(self.encoder.dimension, self.encoder.dimension)

    def to(self, device: torch.device) -> None:
        super().to(device)
        if self.moments.count == 0:
            self.moments = CrossMoments(self.encoder.dimension, self.encoder.dimension, device)

    def learn(self, images: Tensor, step: int) -> tuple[Named, Named]:
        left = max(0, self.total - self.moments.count)
        x, y = self.views(images)
        self.moments.add(self.rows(x)[:left], self.rows(y)[:left])
        return {}, {}

    def views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as pairs; draws from torch's global generators, which the loop has seeded."""
        if self.fit.views == "other":
            return images[:, :3], images[:, 3:]
        if self.fit.views == "damage":
            return images, self.fit.damage(images)
        side = self.encoder.image_size
        row = int(torch.randint(0, side + 1, ()))  # images are twice the side: any band of them holds one pair
        band = images[:, :, row : row + side]
        return band[..., :side], band[..., side:]

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {**super().tensors(), "moments": self.moments.state()}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        self.moments.load(dict(groups["moments"]))

    def finish(self) -> None:
        own, _, _ = told("cca", lambda: cca(self.moments, self.fit.components, ridge=self.fit.ridge))
        self.settle(own)
