"""The end of a study: whom the winner is compared with, and how many comparisons the correction counts."""

from __future__ import annotations

from pathlib import Path

import torch

from common.config import validate
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.machine.distributed import World
from finetune.data import LabeledData, load_labeled, open_sources
from finetune.metrics import score
from finetune.worth import LabelEfficiency, LabelPoint
from pretrain.config import PretrainConfig
from retouch.reporting.compare import holm
from retouch.studies.contestants import Pretrained, RawPixels, Restoring, Simple, Untrained
from retouch.studies.field import Field
from retouch.studies.images import label_set
from retouch.studies.judge import probe_of
from retouch.studies.outcome import data_facts, unchecked
from retouch.studies.results import Contender, Role, touched
from retouch.studies.rivals import compared, rivals_of
from tests.common.data.samples import picture
from tests.retouch.reporting.runs import answers_of

FEW = 100  # images


def test_the_winner_is_probed_with_strong_penalties_too_if_images_are_few() -> None:
    """Few images and many features need them: a grid that ends at 0.1 cost 17 points with 96 images."""
    few, many = probe_of("ridge", FEW), probe_of("ridge", 50_000)
    assert (max(few.l2 or ()), max(many.l2 or ())) == (100.0, 0.1)
    assert probe_of("logistic", FEW) == probe_of("logistic", 50_000)


HERE = World(0, 1, torch.device("cpu"))


def field() -> Field:
    network = build_encoder(EncoderConfig(model_args={"width": 8}), image_size=16).freeze()
    config = validate(PretrainConfig, {"out": Path("unused"), "steps": 1})
    pool = load_images(build_source("shapes"), 16, limit=2)
    ready = (
        RawPixels("pixels", 16),
        Untrained("rgb", network),
        Untrained("gray", network),
        Pretrained("resnet", network),
    )
    simple = (Simple("pca", config, pool, HERE), Simple("kmeans", config, pool, HERE))
    twins = {"denoise": "rgb", "colorize": "gray", "mask": "rgb"}
    return Field(ready, simple, tuple(Restoring(name, config, pool, HERE, twin) for name, twin in twins.items()), ())


RANKED = ("colorize", "kmeans", "mask", "resnet", "pca", "denoise", "gray", "rgb", "pixels")


def test_the_winner_meets_its_own_untrained_network_and_the_best_of_each_kind() -> None:
    assert rivals_of("colorize", field(), RANKED) == {
        "untrained": "gray",
        "pixels": "pixels",
        "simple": "kmeans",
        "restoring": "mask",
        "pretrained": "resnet",
    }


def test_a_winner_that_is_not_trained_meets_the_best_that_is() -> None:
    found = rivals_of("kmeans", field(), RANKED)
    assert (found["restoring"], found["simple"], found["untrained"]) == ("colorize", "pca", "gray")
    assert "untrained" not in rivals_of("rgb", field(), RANKED)
    assert "pretrained" not in rivals_of("resnet", field(), RANKED)


def test_all_comparisons_of_a_study_are_corrected_together() -> None:
    labels = {task: torch.arange(300) % 3 for task in ("animal", "color")}

    def said(right: float) -> dict[str, torch.Tensor]:
        return {task: answers_of(true, right, 3) for task, true in labels.items()}

    rivals: dict[Role, str] = {"untrained": "rgb", "pixels": "pixels"}
    found = compared("mask", rivals, {"mask": said(0.6), "rgb": said(0.57), "pixels": said(0.4)}, labels)
    assert [(one.role, one.task) for one in found] == [
        ("untrained", "animal"), ("untrained", "color"), ("pixels", "animal"), ("pixels", "color"),
    ]  # fmt: skip
    assert [one.adjusted_p for one in found] == holm([one.found.p_value for one in found])
    assert found[0].adjusted_p == 2 * found[0].found.p_value  # the two of pixels are smaller
    assert found[0].found.difference == (9 / 300)
    assert {one.images for one in found} == {300}
    # what is still to come may only make differences clearer
    soon = compared("mask", rivals, {"mask": said(0.6), "rgb": said(0.57), "pixels": said(0.4)}, labels, unknown=2)
    assert soon[0].adjusted_p == 4 * soon[0].found.p_value


def test_test_images_that_only_the_linear_probe_of_the_winner_has_seen_are_counted_with_it(tmp_path: Path) -> None:
    """Every test image is a training image too; half of these are fitted on by all, and all by the linear probe."""
    for number in range(40):
        for part in ("train", "test"):
            folder = tmp_path / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture(number, 20, 24).save(folder / f"{number}.png")
    data = LabeledData(train=str(tmp_path / "train"), test=str(tmp_path / "test"), image_size=16, workers=0)
    images = label_set(load_labeled(open_sources(data, 0), data, 16, 0), judged=20, fitted=20, tested=40, seed=0)
    [fitted] = data_facts([images], everything=False).values()
    [whole] = data_facts([images], everything=True).values()
    assert (fitted.duplicates, whole.duplicates) == (20, 40)


def test_a_pretrained_contestant_may_have_seen_the_test_images() -> None:
    score_ = score(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 1)
    resnet = Contender(name="resnet18", kind="pretrained", view="rgb", test={"animal": score_})
    ours = Contender(name="mask", kind="restoring", view="rgb", test={"animal": score_})
    assert unchecked([ours]) == []
    [said] = unchecked([ours, resnet])
    assert said == "resnet18 may have seen these test images, with their labels: what it was trained on is not checked"


def test_everything_that_answered_the_test_images_is_counted() -> None:
    score_ = score(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 1)
    two = [Contender(name=name, kind="simple", view="rgb", test={"animal": score_}) for name in "ab"]
    assert touched(two, False, {}).endswith("2 classifiers, once each: 2 contestants")
    curve = tuple(LabelPoint(labels=count, draws=(0.5,) * draws) for count, draws in ((10, 3), (20, 3), (40, 1)))
    worth = LabelEfficiency(protocol="", curves={"encoder": curve, "random_init": curve}, worth={})
    said = touched(two, True, {"animal": worth, "color": worth})
    assert said.endswith(
        "17 classifiers, once each: 2 contestants, the winner's linear probe and 14 fitted on fewer labels, for what "
        "its training is worth"
    )
