"""The wiring of the probe stage: damage, seeds and features on disk affect the reported numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

import retouch
from common.data import Images
from common.encoders.base import Encoder
from finetune.features import Extraction, cached_features, extract, feature_key
from finetune.pooling import Part
from tests.finetune.probing import ALONE, probing
from tests.finetune.toys import HalvingEncoder, bright_images

PARTS = [Part(0, "avg"), Part(1, "avg")]
HOW = Extraction(torch.device("cpu"), torch.float32, batch_size=16, workers=0)


def test_damage_is_on_the_test_images_and_the_stronger_the_worse(tmp_path: Path, encoder: Path) -> None:
    damage = [{"kind": "gaussian", "sigma": sigma} for sigma in (1e-6, 20.0)]
    report = retouch.probe(probing(tmp_path / "out", encoder, limit=200, damage=damage, baselines=ALONE))
    linear = report.results[0].linear
    faint, strong = linear.damaged.values()
    assert linear.test.accuracy > 0.2  # of 8 colors
    assert faint.confusion == linear.test.confusion
    assert strong.accuracy < linear.test.accuracy - 0.1


def test_each_seed_has_its_own_untrained_twin_and_all_share_the_encoders_features(
    tmp_path: Path, encoder: Path
) -> None:
    cache = tmp_path / "cache"

    def kept(seed: int) -> int:
        """How many files of features there are after a probe with this seed."""
        out = tmp_path / f"seed-{seed}-{len(list(tmp_path.iterdir()))}"
        kept = {"feature_cache": True, "cache_folder": str(cache)}
        retouch.probe(probing(out, encoder, seed=seed, baselines={"pixels": False}, **kept))
        return len(list(cache.rglob("*.safetensors")))

    assert kept(0) == 4  # of the encoder and its twin, training and test images
    assert kept(0) == 4
    assert kept(1) == 6  # another twin, the same encoder


def test_a_probe_that_may_not_keep_features_keeps_none(tmp_path: Path, encoder: Path) -> None:
    cache = tmp_path / "cache"
    retouch.probe(probing(tmp_path / "out", encoder, baselines=ALONE, feature_cache=False, cache_folder=str(cache)))
    assert not list(cache.rglob("*.safetensors"))


def test_features_on_disk_are_told_apart_by_view_and_size() -> None:
    images = bright_images()

    def key(encoder: Encoder, images: Images = images) -> str:
        return feature_key(encoder, "sha", images, "train", None, PARTS, HOW).digest

    gray = HalvingEncoder()
    gray.view = "gray"
    larger = Images(images.source, 16, images.kept)
    keys = [key(HalvingEncoder()), key(gray), key(HalvingEncoder(), larger)]
    assert len(set(keys)) == 3


def test_a_file_of_other_features_under_the_right_name_is_not_read(tmp_path: Path) -> None:
    encoder, images, others = HalvingEncoder(), bright_images(), bright_images(seed=1)
    keys = [feature_key(encoder, "sha", some, "train", None, PARTS, HOW) for some in (images, others)]
    for key, some in zip(keys, (images, others), strict=True):
        cached_features(tmp_path, key, encoder, some, PARTS, HOW)
    here, other = (next(tmp_path.rglob(f"*{key.digest}*")) for key in keys)
    shutil.copy(other, here)
    again = cached_features(tmp_path, keys[0], encoder, images, PARTS, HOW)
    fresh = extract(encoder, images, PARTS, HOW)
    assert all(torch.equal(again.parts[part], fresh.parts[part]) for part in PARTS)
