"""Training in words: the network, and the damage that it learned to restore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.corruptions import Blur, Gaussian, Gray, Holes, Jpeg, SaltPepper
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from pretrain.gradient.pretexts import AnyPretext, Colorize, Denoise, Identity, Mask, Mixed
from retouch.reporting.blocks import Figures
from retouch.reporting.damage import damage_named, damage_of
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from retouch.reporting.training import introduced, learned_sentences, restoration, training_blocks
from tests.retouch.reporting.reading import Page, inside
from tests.retouch.reporting.runs import write_pretraining


@pytest.mark.parametrize(
    ("pretext", "said"),
    [
        (Denoise(corruption=Gaussian(sigma=0.2)), "Gaussian noise (standard deviation 0.2; black is 0 and white is 1)"),
        # the logarithm of the deviation is normal: e^-1.9 is 0.15, e^-3.1 is 0.045 and e^-0.7 is 0.5
        (Denoise(), "median standard deviation 0.15, and between 0.045 and 0.5 for two thirds of the images"),
        (Denoise(corruption=SaltPepper(amount=(0.1, 0.4))), "black and white pixels (10 to 40% of all)"),
        (Denoise(corruption=Blur(sigma=(2, 2))), "blur (a Gaussian of 2 px)"),
        (Denoise(corruption=Jpeg()), "JPEG compression (quality 5 to 50 of 100)"),
        (Mask(ratio=0.6), "60% of the patches hidden"),
        (Colorize(), "no color"),
        (Mixed(members=[Gray(), Holes()]), "no color or holes (50% of the squares of 4 px)"),
        (Mixed(members=[Gray(), Blur()], at_most=2), "no color or blur (a Gaussian of 0.4 to 2 px), up to 2 per image"),
    ],
)
def test_damage_is_said_with_its_strength(pretext: AnyPretext, said: str) -> None:
    assert said in damage_of(pretext.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gaussian sigma=0.1", "Gaussian noise (standard deviation 0.1; black is 0 and white is 1)"),
        ("gray", "no color"),
        ("holes ratio=0.25 size=8", "holes (25% of the squares of 8 px)"),
        ("blur sigma=(0.5, 2.0)", "blur (a Gaussian of 0.5 to 2 px)"),
        ("fog", "fog"),
        ("holes ratio=a lot", "holes ratio=a lot"),
    ],
)
def test_the_damage_of_test_images_is_said_in_words(name: str, said: str) -> None:
    assert damage_named(name) == said


@pytest.mark.parametrize("pretext", [Identity().model_dump(), {"kind": "pca"}, {"kind": "denoise", "new": 1}, None])
def test_methods_without_damage_and_unknown_ones_have_none(pretext: dict[str, str] | None) -> None:
    assert damage_of(pretext) == ""  # type: ignore[arg-type]  # a mapping of JSON values is invariant


def test_runs_of_one_network_and_damage_share_a_sentence(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    parameters = sum(one.numel() for one in encoder.parameters())
    runs = []
    for name, pretext in (("a", Denoise()), ("b", Denoise()), ("c", Colorize())):
        runs.append(write_pretraining(tmp_path / name, sha256=name * 64))
        export_encoder(encoder, tmp_path / name / "encoder", Provenance(pretext=pretext.model_dump(mode="json")))
    first, second = learned_sentences(read_facts(runs))
    assert first.startswith(f"a and b: small_cnn, {parameters:,} parameters; the images to restore had Gaussian noise")
    assert second == f"c: small_cnn, {parameters:,} parameters; the images to restore had no color."
    assert learned_sentences(read_facts([write_pretraining(tmp_path / "d")])) == []


def test_the_page_says_at_its_top_what_each_network_learned_unless_there_are_many(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    several = Mixed(members=[Gaussian(), Gray(), Holes()], at_most=2)
    runs = []
    for name, pretext in (("a", Denoise()), ("b", Denoise()), ("c", Colorize()), ("d", several)):
        runs.append(write_pretraining(tmp_path / name, sha256=name * 64))
        export_encoder(encoder, tmp_path / name / "encoder", Provenance(pretext=pretext.model_dump(mode="json")))
    said = (
        "Without labels, a and b learned to restore images that had Gaussian noise; c learned to restore images that "
        "had no color; d learned to restore images that had Gaussian noise, no color or holes, up to 2 per image."
    )
    facts = read_facts(runs)
    assert introduced(facts) == said
    assert said in Page(html(facts)).said
    assert introduced(read_facts([write_pretraining(tmp_path / "e")])) == ""
    for number in range(3):
        runs.append(write_pretraining(tmp_path / f"more-{number}", sha256=f"{number}" * 64))
        hidden = Mask(ratio=0.3 + 0.1 * number).model_dump(mode="json")
        export_encoder(encoder, runs[-1] / "encoder", Provenance(pretext=hidden))
    assert introduced(read_facts(runs)) == ""


def test_that_no_fault_was_found_is_said_once_for_several_runs(tmp_path: Path) -> None:
    sound = [write_pretraining(tmp_path / name, sha256=name * 64) for name in ("a", "b")]
    said = restoration(read_facts(sound))
    assert said[-1].startswith("No training fault was found in any of these 2 runs: ")
    assert sum("No training fault" in one for one in said) == 1
    faulty = write_pretraining(tmp_path / "c", sha256="c" * 64, wrong="the network returns its input")
    said = restoration(read_facts([*sound, faulty]))
    assert said[-1].startswith("No training fault was found in a and b: ")
    assert said[2].endswith(" A fault was found: the network returns its input.")
    said = restoration(read_facts([sound[0], faulty]))
    assert len(said) == 2
    assert "No training fault was found: the network" in said[0]


def test_two_points_of_a_loss_are_not_drawn(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "kmeans")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for count, drawn in ((3, True), (2, False)):
        (run / "metrics.jsonl").write_text("\n".join(lines[:count]))
        assert any(isinstance(one, Figures) for one in training_blocks(read_facts([run]))) == drawn


def test_passes_over_the_images_are_counted(tmp_path: Path) -> None:
    said = Page(html(read_facts([write_pretraining(tmp_path / "a")]))).said
    assert "passesover the images" in said
    assert "16.0" in said  # 300 steps of 64 images, of 1,200


def test_a_tenth_of_a_decibel_does_not_look_large(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "a")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:4]]
    found = [{**line, "psnr/network": 25.9 + 0.02 * number} for number, line in enumerate(lines)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in found))
    [figures] = [one for one in training_blocks(read_facts([run])) if isinstance(one, Figures)]
    ticks = {one.text for one in inside(figures.items[0].chart).iter("text")}
    assert {"25.5", "26", "26.5"} <= ticks


def test_images_that_a_network_was_trained_on_may_be_memorized(tmp_path: Path) -> None:
    facts = read_facts([write_pretraining(tmp_path / "mine", held_out=False)])
    [said] = [text for text in limits(facts) if "memorized" in text]
    assert said.startswith("mine: what it restores are images that it was trained on, each 16 times, as none were held")
    assert not [text for text in limits(read_facts([write_pretraining(tmp_path / "other")])) if "memorized" in text]
