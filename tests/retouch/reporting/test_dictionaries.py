"""Dictionaries of patches on the page: by the name of their method, next to random atoms."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import read_encoder_card
from common.encoders.provenance import Provenance
from finetune.config import ProbeConfig
from finetune.predictions import Predictions
from finetune.results import ProbeResult
from finetune.subjects import encoder_facts
from retouch.reporting.answer import verdict
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.question import question
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import probe_result, write_probe

NOISE = "compared with the same dictionary whose atoms are random numbers"
NETWORK = "Each gain is over a single untrained network, the one that training began with."


def probed(folder: Path, learn: str | None) -> tuple[ProbeResult, Predictions]:
    """The probe of a dictionary whose card says how its atoms were found; None: an older file, which does not."""
    encoder = build_encoder(EncoderConfig(name="patch_dictionary", model_args={"atoms": 8, "patch": 4}), image_size=16)
    export_encoder(encoder, folder, Provenance(pretext={"kind": "patch_dictionary", "learn": learn}))
    facts = encoder_facts(ProbeConfig(encoder=folder, out=folder / "probe"), read_encoder_card(folder))
    result, predictions = probe_result(pretext="patch_dictionary", sha256=facts.sha256)
    facts = facts.model_copy(update={"method": None}) if learn is None else facts
    return result.model_copy(update={"encoder": facts}), predictions


@pytest.mark.parametrize(
    ("learn", "name"),
    [
        ("kmeans", "kmeans"),
        ("random", "random_patches"),
        ("sparse_coding", "sparse_coding of patches"),
        (None, "patch dictionary"),
    ],
)
def test_a_dictionary_has_the_name_of_its_method(tmp_path: Path, learn: str | None, name: str) -> None:
    facts = read_facts([write_probe(tmp_path / "p", probed(tmp_path / "encoder", learn))])
    assert question(facts) == f"Does {name} beat random atoms?"
    assert verdict(facts).answer[0].startswith(f"Yes: {name} beats random atoms on animal by 30.0 points [")
    said = Page(html(facts)).said
    assert "patch_dictionary" not in said
    assert NOISE in said  # its twin has neither patches nor the weights of a network


def test_the_twin_of_a_dictionary_is_nowhere_an_untrained_network(tmp_path: Path) -> None:
    facts = read_facts([write_probe(tmp_path / "p", probed(tmp_path / "encoder", "kmeans"))])
    said = Page(html(facts)).said
    for part in ("untrained network", "gain over untrained", "baseline untrained"):
        assert part not in said
    assert not [text for text in limits(facts) if text.startswith(NETWORK)]
    assert [text for text in limits(facts) if text.startswith("Each gain of a dictionary is over a single draw of ")]


def test_next_to_a_network_each_has_its_own_twin(tmp_path: Path) -> None:
    both = probed(tmp_path / "encoder", "kmeans"), probe_result()
    facts = read_facts([write_probe(tmp_path / "p", *both)])
    assert question(facts) == "Do kmeans and denoise beat the same networks untrained?"
    said = Page(html(facts)).said
    assert "random atoms (kmeans)" in said
    assert "untrained (denoise)" in said
    assert NOISE in said
    assert len([text for text in limits(facts) if text.startswith("Each gain ")]) == 2


def test_a_network_says_nothing_of_atoms(tmp_path: Path) -> None:
    facts = read_facts([write_probe(tmp_path / "p", probe_result())])
    assert "atoms" not in Page(html(facts)).said
    assert [text for text in limits(facts) if text.startswith(NETWORK)]
