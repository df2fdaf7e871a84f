"""README's picture shows what its networks were not trained on."""

from __future__ import annotations

import pictures
import torch

from common.data.photos import PhotosSource, photographs, places


def test_training_leaves_out_every_patch_that_shares_a_pixel_with_one_that_is_shown() -> None:
    photos = PhotosSource(side=pictures.SIDE)
    used = torch.zeros(photographs().shape[0], *photographs().shape[2:], dtype=torch.bool)
    kept = pictures.unseen(pictures.SHOWN).rows
    for photograph, top, left in places(photos.seed, photos.split, kept.numpy(), pictures.SIDE):
        used[photograph, top : top + pictures.SIDE, left : left + pictures.SIDE] = True
    shown = places(photos.seed, photos.split, pictures.SHOWN.numpy(), pictures.SIDE)
    for photograph, top, left in shown:
        assert not used[photograph, top : top + pictures.SIDE, left : left + pictures.SIDE].any()
    assert {int(photograph) for photograph, _, _ in shown} == {0, 1}
    assert len(kept) > 0.8 * len(photos)
