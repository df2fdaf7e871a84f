"""Fine-tuning: the rate of each layer, and which weights decay."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.augment import WHOLE
from common.encoders import Classifier, EncoderConfig, build_encoder, layer_decay_groups
from common.encoders.load import load_classifier, load_encoder
from common.engine.schedule import seed_step
from finetune.supervised import Supervised, decayed_groups
from tests.finetune.tuning import config, exported, finetune


def test_each_layer_learns_slower_than_the_one_after_it(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16)
    model = Supervised(Classifier(encoder, ["a", "b"]), 0.0, WHOLE)
    groups = decayed_groups(model, config(tmp_path, encoder=tmp_path / "none", layer_decay=0.5))
    names = {parameter: name for name, parameter in model.classifier.named_parameters()}
    scales: dict[str, float] = {}
    for group in groups:
        for parameter in group["params"]:
            scales[names[parameter]] = group["lr_scale"]
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)
    assert scales.keys() == {name for name, p in model.classifier.named_parameters() if p.requires_grad}
    first, deepest = scales["encoder.blocks.0.0.weight"], max(scales.values())
    assert deepest == 1.0
    assert first == min(scales.values()) == 0.5 ** (len(set(scales.values())) - 1)


def test_tokens_and_positions_are_not_decayed(tmp_path: Path) -> None:
    args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    vit = build_encoder(EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=args), image_size=16)
    model = Supervised(Classifier(vit, ["a", "b"]), 0.0, WHOLE)
    names = {parameter: name for name, parameter in model.classifier.named_parameters()}
    groups = decayed_groups(model, config(tmp_path, encoder=tmp_path / "none"))
    free = {names[p] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"encoder.model.cls_token", "encoder.model.pos_embed"} <= free
    assert "encoder.model.blocks.0.mlp.fc1.weight" not in free


@pytest.mark.parametrize(("decay", "moves"), [(1e-6, False), (1.0, True)])
def test_a_tiny_layer_decay_keeps_the_first_layer_fixed(tmp_path: Path, decay: float, moves: bool) -> None:
    start = exported(tmp_path / "encoder")
    seed_step(0, 1)
    before = Classifier(load_encoder(start), ["?"] * 8).state_dict()  # head and encoder at the start of training
    finetune(config(tmp_path / "run", encoder=start, steps=2, layer_decay=decay))
    after = load_classifier(tmp_path / "run" / "classifier").state_dict()
    depths = dict(layer_decay_groups(Classifier(load_encoder(start), ["?"] * 8)))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in depths}
    first = max(moved[name] for name in depths if depths[name] == 0)
    head = min(moved[name] for name in depths if depths[name] == max(depths.values()))
    assert head > 1e-4
    assert (first > 1e-5) is moves
