"""The health of features without labels, compared with those of the untrained network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import Config
from common.encoders.base import Encoder
from common.pixels import in_chunks

UNCHANGED = 1e-5  # a feature is constant if it varies less than this, relative to its size


class Health(Config):
    """What an encoder's features are like, on images without labels.

    Attributes:
        features: features per image: the channels of the last map.
        effective_rank: how many directions the features, averaged over the map, use (``effective_rank``).
        dead: share of the features that are 0 at every position of every image, in [0, 1].
        constant: share of the other features that are the same for every image.
        similarity: mean cosine similarity between the features of two images; 1 if all images look alike.
    """

    features: int
    effective_rank: float
    dead: float
    constant: float
    similarity: float

    @property
    def numbers(self) -> dict[str, float]:
        """For curves."""
        return {
            "effective_rank": self.effective_rank,
            "dead_features": self.dead,
            "constant_features": self.constant,
            "similarity": self.similarity,
        }


@torch.no_grad()
def health(encoder: Encoder, images: Tensor) -> Health:
    """Measured on undamaged images ``[N 3 S S]`` in [0, 1]; the encoder is in eval mode."""
    device = encoder.mean.device
    maps = [encoder(some.to(device)).float().flatten(2) for some in in_chunks(images)]
    alive = torch.stack([(part != 0).any(2).any(0) for part in maps]).any(0).cpu()  # [D]
    features = torch.cat([part.mean(2) for part in maps]).double().cpu()  # [N D]
    varies = features.std(0, correction=0) > UNCHANGED * features.abs().mean(0)
    return Health(
        features=features.shape[1],
        effective_rank=round(effective_rank(features), 2),
        dead=round(float((~alive).double().mean()), 4),
        constant=round(float((alive & ~varies).double().mean()), 4),
        similarity=round(mean_similarity(features), 6),
    )


def effective_rank(features: Tensor) -> float:
    """``exp`` of the entropy of the singular values of ``[N D]``, normalized to sum 1 (RankMe, Garrido et al. 2023).

    1 if one direction holds everything, at most min(N, D); 0 if all features are 0.
    """
    values = torch.linalg.svdvals(features)
    if not values.sum():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def mean_similarity(features: Tensor) -> float:
    """Mean cosine similarity between two different rows of ``[N D]``; 1 for a single row."""
    count = len(features)
    if count < 2:
        return 1.0
    units = F.normalize(features, dim=1)
    return float((units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1)))
