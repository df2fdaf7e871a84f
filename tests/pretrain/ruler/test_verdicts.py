"""Numbers become the right sentences, and each fault the right verdict."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t
from torch import Tensor

from common.encoders import Encoder
from common.engine.curve import Stall, stall
from pretrain.gradient.pretexts import Denoise
from pretrain.ruler.health import Health, effective_rank, health, mean_similarity
from pretrain.ruler.verdicts import Losses, Verdict, progress, standing, verdicts

FOUND = {"doing nothing": 20.0, "a Gaussian filter": 24.03, "non-local means": 25.94}
WELL = Health(features=64, effective_rank=20, dead=0, constant=0, similarity=0.8)
EVEN = Losses(training=0.02, held_out=0.02, chance=0.5)


@pytest.mark.parametrize(
    ("psnr", "sentence"),
    [
        (27.11, "better than non-local means (PSNR 27.1 against 25.9)"),
        (25.97, "better than a Gaussian filter (PSNR 26.0 against 24.0), but not than non-local means (25.9)"),
        (20.2, "slightly better than doing nothing (PSNR 20.2 against 20.0), but not than non-local means (25.9)"),
        (22.0, "better than doing nothing (PSNR 22.0 against 20.0), but not than non-local means (25.9)"),
        (20.0, "no better than non-local means (PSNR 20.0 against 25.9)"),
    ],
)
def test_network_stands_between_the_restorers_it_beats_and_the_best(psnr: float, sentence: str) -> None:
    assert standing(psnr, FOUND) == sentence


def test_many_small_gains_are_progress_and_a_flat_end_is_none() -> None:
    steady = [(100 * n, 0.996**n) for n in range(12)]  # 0.4% each: progress at every third
    assert stall(steady) == Stall(2, 200)
    flat = [(0, 1.0), (100, 0.5), (200, 0.499), (300, 0.51), (400, 0.498)]
    assert stall(flat) == Stall(3, 300)
    assert stall([]) == Stall(0, 0)
    assert progress(stall(flat), 3) == "no progress for 300 steps: stopping is safe"
    assert progress(stall(flat), 4) == ""


def test_effective_rank_counts_equal_directions() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 6, dtype=torch.float64)).Q
    assert effective_rank(basis @ torch.eye(6, dtype=torch.float64)) == pytest.approx(6)
    uneven = basis @ torch.diag(torch.tensor([3.0, 1, 0, 0, 0, 0], dtype=torch.float64))
    assert effective_rank(uneven) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_similarity_is_the_mean_over_pairs() -> None:
    rows = torch.tensor([[1.0, 0], [0, 2], [-3, 0]])
    assert mean_similarity(rows) == pytest.approx((0 - 1 + 0) / 3)
    assert mean_similarity(rows[:1]) == 1


@pytest.fixture
def encoder(encoder_for: object) -> Encoder:
    assert callable(encoder_for)
    found = encoder_for(Denoise(), "narrow")
    assert isinstance(found, Encoder)
    return found.eval()


def faults(found: Health, untrained: Health = WELL, **changes: object) -> list[str]:
    usual: dict[str, object] = {"changed": 0.9, "losses": EVEN, "earlier": [0.03, 0.021]}
    return [one.kind for one in verdicts(found, untrained, **{**usual, **changes})]  # type: ignore[arg-type]


def test_healthy_network_has_no_verdict() -> None:
    assert faults(WELL) == []
    assert faults(WELL, losses=Losses(0.02, None, 1.0), changed=None) == []
    assert faults(WELL.model_copy(update={"effective_rank": 7.0})) == []  # training lowers it


def test_planted_faults_of_an_encoder_are_named(encoder: Encoder, photographs: Tensor) -> None:
    before = health(encoder, photographs)
    assert faults(before, before) == []
    code = encoder.get_submodule("code")
    weight, bias = code.get_parameter("weight").data, code.get_parameter("bias").data
    kept, offset = weight.clone(), bias.clone()

    weight[:9], bias[:9] = 0, 0  # nine of sixteen features are always 0
    found = health(encoder, photographs)
    assert found.dead == pytest.approx(9 / 16, abs=1e-4)
    assert faults(found, before) == ["dead"]

    weight.zero_()
    bias.fill_(0.3)  # the same for every image
    found = health(encoder, photographs)
    assert (found.dead, found.constant) == (0, 1)
    assert found.similarity == pytest.approx(1)
    assert faults(found, before) == ["collapsed"]

    weight[:], bias[:] = kept[:1] * torch.linspace(1, 2, 16).view(-1, 1, 1, 1), 0  # one direction
    found = health(encoder, photographs)
    assert found.effective_rank == pytest.approx(1, abs=0.02)
    assert found.constant == 0
    assert faults(found, before) == ["collapsed"]
    weight[:], bias[:] = kept, offset
    assert health(encoder, photographs) == before


def test_network_that_gives_back_its_input_copies() -> None:
    assert faults(WELL, changed=0.01) == ["copying"]


def test_gap_is_memorizing_only_beyond_chance_and_a_rise_without_one_diverges() -> None:
    assert faults(WELL, losses=Losses(0.02, 0.03, 0.0005)) == ["memorizing"]
    assert faults(WELL, losses=Losses(0.02, 0.03, 0.002)) == []
    assert faults(WELL, losses=Losses(0.02, 0.0215, 1e-9)) == []
    assert faults(WELL, losses=Losses(0.05, 0.05, 0.5)) == ["diverging"]


def test_a_gap_is_a_note_about_restored_pictures_and_a_fault_only_if_the_held_out_loss_really_rises() -> None:
    def said(lowest: float) -> Verdict:
        (found,) = verdicts(WELL, WELL, changed=0.9, losses=Losses(2.471, 4.486, 1e-5), earlier=[5.0, lowest])
        return found

    note, fault = said(4.29), said(2.9)
    assert (note.kind, note.is_fault) == ("memorizing", False)
    assert note.sentence == (
        "Note: the loss is 4.486 on held-out images and 2.471 on training images: new pictures are restored worse than "
        "those of the training. This is about the restored pictures; the features may still be good, and a probe "
        "decides."
    )
    assert (fault.kind, fault.is_fault) == ("overfitting", True)
    assert fault.sentence.startswith("A fault was found: the held-out loss has risen from 2.9 to 4.486, while that on")
    assert "steps help" not in fault.text


def test_chance_of_a_gap_is_that_of_a_paired_t_test_worked_out_by_hand() -> None:
    torch.manual_seed(0)
    luck, groups = torch.rand(30, dtype=torch.float64).exp(), torch.arange(30)
    training, held_out = luck + 0.1 * torch.rand(30), luck + 0.1 * torch.rand(30) + 0.05
    found = Losses.of(training, held_out, groups)
    assert found[:2] == pytest.approx((training.mean().item(), held_out.mean().item()))
    apart = held_out - training
    assert found.chance == pytest.approx(t.sf(float(apart.mean() / (apart.std() / 30**0.5)), 29))
    assert found.chance < 1e-4
    assert Losses.of(held_out, training, groups).chance == pytest.approx(1 - found.chance)
    # rows that are cut from the same three images are three observations
    thirds = apart.view(3, 10).mean(1)
    of_three = Losses.of(training, held_out, groups // 10)
    assert of_three.chance == pytest.approx(t.sf(float(thirds.mean() / (thirds.std() / 3**0.5)), 2))
    assert Losses.of(training, None, groups) == (training.mean().item(), None, 1.0)
    assert Losses.of(training[:1], held_out, groups).chance == 1.0
