"""Baselines: raw pixels, and the untrained twin with the statistics of its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder, random_twin
from common.encoders.statistics import settle_norms
from common.pixels import to_float
from finetune.baselines import Pixels, share_statistics, untrained
from tests.common.encoders.family import FAMILY, Member
from tests.finetune.toys import bright_images
from tests.toys import noise_images


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    torch.manual_seed(0)
    config = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(config, image_size=16, view="gray"), folder)
    return folder


def test_small_images_are_their_own_pixels() -> None:
    images = to_float(bright_images(4).rows(torch.arange(4)))
    assert torch.equal(Pixels(8)(images), images)


def test_large_images_are_averaged_down_to_32_pixels() -> None:
    images = torch.rand(2, 3, 64, 64)
    encoder = Pixels(64)
    assert encoder.map_shape == (3, 32, 32)
    torch.testing.assert_close(encoder(images), nn.functional.avg_pool2d(images, 2))


def test_statistics_are_the_plain_average_over_batches() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.1)
    network = nn.Sequential(norm, nn.Dropout(0.9))
    assert norm.running_mean is not None
    norm.running_mean += 5  # earlier statistics are discarded
    batches = [torch.rand(8, 3, 4, 4) * scale for scale in (1.0, 2.0, 3.0)]
    settle_norms(network, [*batches, torch.rand(1, 3, 4, 4)])  # one image has no variance
    expected = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == 0.1
    assert not norm.training


def test_the_untrained_twin_has_the_view_and_none_of_the_weights(exported: Path) -> None:
    trained = load_encoder(exported)
    twin = untrained(exported, 1, noise_images(64, 16), torch.device("cpu"))
    assert (twin.view, twin.layer_shapes) == (trained.view, trained.layer_shapes)
    weights = dict(trained.named_parameters())
    convolutions = [name for name, parameter in twin.named_parameters() if parameter.ndim == 4]
    assert convolutions
    assert all(not torch.equal(dict(twin.named_parameters())[name], weights[name]) for name in convolutions)
    assert not twin.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_the_untrained_twin_depends_only_on_the_seed_and_sees_standardized_maps(exported: Path) -> None:
    images = noise_images(64, 16)
    one, same, other = (untrained(exported, seed, images, torch.device("cpu")) for seed in (1, 1, 2))
    batch = to_float(images.rows(torch.arange(64)))
    assert torch.equal(one(batch), same(batch))
    assert not torch.equal(one(batch), other(batch))
    norm = next(module for module in one.modules() if isinstance(module, nn.BatchNorm2d))
    caught: list[torch.Tensor] = []
    norm.register_forward_hook(lambda module, given, output: caught.append(output.clone()))
    one(batch)
    # after its first norm, with weight 1 and bias 0, every channel has mean 0 and deviation 1 over the images
    torch.testing.assert_close(caught[0].mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)
    torch.testing.assert_close(caught[0].std(dim=(0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize(("name", "learned"), [("patch_dictionary", "dictionary"), ("sparse_code", "dictionary")])
def test_the_untrained_twin_shares_the_statistics_of_the_data_but_no_atom(
    name: str, learned: str, tmp_path: Path
) -> None:
    encoder = build_encoder(EncoderConfig(name=name, model_args={"atoms": 8}), image_size=16)
    assert encoder.statistics
    for statistic in encoder.statistics:
        encoder.get_buffer(statistic).copy_(torch.rand_like(encoder.get_buffer(statistic)))
    export_encoder(encoder, tmp_path / "encoder")
    twin = untrained(tmp_path / "encoder", 1, noise_images(64, 16), torch.device("cpu"))
    for statistic in encoder.statistics:
        assert torch.equal(twin.get_buffer(statistic), encoder.get_buffer(statistic))
    assert not torch.equal(twin.get_buffer(learned), encoder.get_buffer(learned))


@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_twin_and_encoder_differ_in_learned_weights_alone(member: Member, tmp_path: Path) -> None:
    """Given the encoder's learned weights, the twin is the encoder."""
    images = noise_images(64, 32)
    batch = to_float(images.rows(torch.arange(64)))
    encoder = member.build(view="gray")
    statistics = set(encoder.statistics)
    norms = [name for name, one in encoder.named_modules() if isinstance(one, nn.BatchNorm2d)]
    statistics |= {f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var")}
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))  # learned, also where all start alike
        for name in encoder.statistics:
            encoder.get_buffer(name).copy_(torch.rand_like(encoder.get_buffer(name)) / 10)
    update_bn([batch], encoder)
    export_encoder(encoder.eval(), tmp_path / "encoder")

    twin = random_twin(tmp_path / "encoder", 1)
    learned = {name: value for name, value in encoder.state_dict().items() if name not in statistics}
    twin.load_state_dict(twin.state_dict() | learned)
    share_statistics(twin, tmp_path / "encoder", images, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(twin(batch), encoder(batch), rtol=1e-4, atol=1e-5)


def test_the_twin_of_a_timm_folder_standardizes_images_as_the_folder_says(tmp_path: Path) -> None:
    export_encoder(build_encoder(EncoderConfig(name="timm/test_convnext"), image_size=32), tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    del config["retouch"]  # as timm itself writes it
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    twin = random_twin(tmp_path / "timm", 1)
    torch.testing.assert_close(twin.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(twin.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
