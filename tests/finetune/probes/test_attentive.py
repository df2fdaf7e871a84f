"""The attentive probe: the linear probe where attention is uniform, and what attention finds beyond it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.errors import UserError
from finetune.features import Features
from finetune.pooling import Part, Space, cells_within
from finetune.probe import probe
from finetune.probes import Attentive, Candidates, Linear
from finetune.probes.attentive import Attention
from finetune.solvers.logistic import LogisticFit
from tests.finetune.probes.features import CPU, task_of
from tests.finetune.probes.toys import config_of

D, P = 5, 9
TOKENS, MEAN = Part(0, "flatten"), Part(0, "avg")
MAP, AVERAGE = Space((0,), ("flatten",), (TOKENS,), D * P, P), Space((0,), ("avg",), (MEAN,), D)


def marked(n: int, seed: int) -> tuple[Features, Tensor]:
    """One position, at random, shows the class, and channel 4 marks it; the others show a random class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    shown = torch.randint(0, 3, (n, P), generator=generator)
    place = torch.randint(0, P, (n,), generator=generator)
    shown[torch.arange(n), place] = labels
    maps = torch.zeros(n, D, P)
    maps[:, :3] = 2 * torch.nn.functional.one_hot(shown, 3).transpose(1, 2)
    maps[torch.arange(n), 4, place] = 3
    maps += 0.3 * torch.randn(n, D, P, generator=generator) + torch.arange(D)[:, None]
    return Features({TOKENS: maps.flatten(1), MEAN: maps.mean(2)}, torch.arange(n)), labels


def accuracy(
    one: Attentive | Linear, space: Space, train: tuple[Features, Tensor], test: tuple[Features, Tensor]
) -> float:
    candidates, task = Candidates(train[0], [space], CPU), task_of(train[1])
    answers = one.refit(candidates, task, one.choose(candidates, task)).predict(test[0])
    return float((answers == test[1]).double().mean())


def test_with_uniform_attention_it_is_the_linear_probe_of_averages() -> None:
    train, labels = marked(300, 0)
    test, _ = marked(100, 1)
    one, linear, task = Attentive(l2=(1e-3, 1e-1), heads=(3,), steps=0), Linear(l2=(1e-3, 1e-1)), task_of(labels)
    mine, other = Candidates(train, [MAP], CPU), Candidates(train, [AVERAGE], CPU)
    chosen, reference = one.choose(mine, task), linear.choose(other, task)
    assert chosen.setting["l2"] == reference.setting["l2"]
    assert chosen.val_accuracy == reference.val_accuracy
    said = one.refit(mine, task, chosen).answers(test)
    expected = linear.refit(other, task, reference).answers(test)
    assert torch.equal(said.classes, expected.classes)
    assert said.confidence is not None
    assert expected.confidence is not None
    torch.testing.assert_close(said.confidence, expected.confidence, atol=2e-3, rtol=0)


def test_attention_finds_the_position_that_averages_drown() -> None:
    train, test = marked(600, 0), marked(300, 1)
    average = accuracy(Linear(l2=(1e-3, 1e-2, 1e-1)), AVERAGE, train, test)
    assert average < 0.75
    for heads in (1, 2):
        assert accuracy(Attentive(l2=(1e-4, 1e-3), heads=(heads,)), MAP, train, test) > 0.95 > average + 0.2


def test_the_logits_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    query, weight = torch.randn(2, D, generator=generator), torch.randn(2, D, 3, generator=generator)
    bias, maps = torch.randn(3, generator=generator), torch.randn(4, D, P, generator=generator)
    found = Attention(query, weight, bias, P).logits(maps.flatten(1))
    for image, one in enumerate(maps):
        expected = bias.clone()
        for head in range(2):
            shares = torch.tensor([float(query[head] @ one[:, p]) / math.sqrt(D) for p in range(P)]).softmax(0)
            expected += sum(shares[p] * one[:, p] for p in range(P)) @ weight[head]
        torch.testing.assert_close(found[image], expected)


def test_training_lowers_the_penalized_loss_in_blocks_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = marked(120, 0)
    rows = train.parts[TOKENS] - train.parts[TOKENS].mean(0)

    def loss(model: Attention) -> float:
        value = torch.nn.functional.cross_entropy(model.logits(rows), labels) + 1e-2 * model.penalty()
        return float(value)

    found = []
    for size in (512, 50):
        monkeypatch.setattr("finetune.probes.attentive.ROWS", size)
        model = Attention.around(torch.zeros(D, 3), torch.zeros(3), 2, P)
        before = loss(model)
        model.train(rows, labels, 1e-2, 60)
        assert loss(model) < before - 0.05
        assert not model.query.requires_grad
        with torch.enable_grad():
            for one in (model.query, model.weight, model.bias):
                one.requires_grad_()
            value = torch.nn.functional.cross_entropy(model.logits(rows), labels) + 1e-2 * model.penalty()
            gradients = torch.autograd.grad(value, (model.query, model.weight, model.bias))
        assert max(float(one.norm()) for one in gradients) < 0.02  # near a minimum of the penalized loss
        for one in (model.query, model.weight, model.bias):
            one.requires_grad_(False)
        found.append(loss(model))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_the_penalty_of_equal_heads_is_that_of_their_sum() -> None:
    weight = torch.randn(D, 3)
    model = Attention.around(weight, torch.zeros(3), 4, P)
    model.query.zero_()
    assert float(model.penalty()) == pytest.approx(float(weight.square().sum()) / 2)


def test_no_global_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    Attention.around(torch.zeros(D, 3), torch.zeros(3), 4, P)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_grid_goes_from_many_heads_and_weak_penalties_to_few_and_strong() -> None:
    _, labels = marked(60, 0)
    grid = Attentive(l2=(1.0, 1e-2), heads=(1, 4)).grid(task_of(labels))
    assert [(one["heads"], one["l2"]) for one in grid] == [(4, 0.01), (4, 1.0), (1, 0.01), (1, 1.0)]


# ---- the maps it chooses from


@pytest.mark.parametrize(
    ("shape", "most", "width", "expected"),
    [
        ((8, 4, 4), 8, 1000, ("flatten", 128, 16)),
        ((8, 14, 14), 8, 1000, ("avg8", 512, 64)),
        ((8, 14, 14), 8, 400, ("avg7", 392, 49)),  # what fits
        ((8, 14, 14), 8, 20, ("avg", 8, 1)),
        ((8, 2, 2), 8, 1000, ("avg2", 32, 4)),
        ((8, 3, 1), 8, 1000, ("flatten", 24, 3)),
    ],
)
def test_large_maps_are_averaged_to_what_fits(
    shape: tuple[int, int, int], most: int, width: int, expected: tuple[str, int, int]
) -> None:
    space = cells_within(3, shape, most, width)
    assert space == Space((3,), (expected[0],), (Part(3, expected[0]),), *expected[1:])


def test_the_last_map_with_several_positions_is_taken_unless_others_are_named() -> None:
    shapes = [(4, 8, 8), (8, 4, 4), (16, 1, 1)]
    assert [space.layers for space in Attentive().spaces(shapes, [], 9999)] == [(1,)]
    assert [space.layers for space in Attentive(layers=(0, -2)).spaces(shapes, [], 9999)] == [(0,), (1,)]
    assert [space.layers for space in Attentive(layers=(0, -2)).spaces(shapes[:1], [], 9999)] == [(0,)]
    with pytest.raises(UserError, match="layer 2 is not a single map with several positions; choose among 0, 1"):
        Attentive(layers=(2,)).spaces(shapes, [], 9999)
    with pytest.raises(UserError, match=r"layer 0\+1\+2 is not a single map"):
        Attentive(layers=("all",)).spaces(shapes, [], 9999)
    with pytest.raises(UserError, match="nothing to attend to"):
        Attentive().spaces(shapes[2:], [], 9999)


def test_the_stage_measures_it_for_all_subjects_on_their_own_maps(tmp_path: Path) -> None:
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), tmp_path / "encoder")
    more = [{"kind": "attentive", "l2": [1e-2], "heads": [2], "steps": 3}]
    config = config_of(tmp_path / "out", tmp_path / "encoder", more_probes=more, baselines={"random_init": True})
    [result] = probe(config, show=False).results
    assert "attentive probe (3 steps from uniform attention)" in result.protocol
    for name, subject in result.subjects.items():
        choice = subject.probes["attentive"].choice
        assert choice.setting == {"l2": 1e-2, "heads": 2}
        assert choice.pooling == ("avg8" if name == "pixels" else choice.pooling)
        assert choice.features > subject.probes["linear"].choice.features or name == "pixels"
    compared = result.subjects["encoder"].probes["attentive"].compared
    assert list(compared) == ["random_init", "pixels"]


# ---- a solver that fails


class Failing(torch.optim.LBFGS):
    """Looks at its start and a better place, and ends elsewhere."""

    end = 0.0

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        first = closure()
        for value in (0.9, self.end):
            with torch.no_grad():
                for one in parameters:
                    one.mul_(value)
            closure()
        return first


@pytest.mark.parametrize("end", [math.nan, 1e6])
def test_training_never_ends_above_its_start(end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = marked(120, 0)
    matrix = features.parts[TOKENS] / 10
    generator = torch.Generator().manual_seed(1)
    weight, bias = 20 * torch.randn(D, 3, generator=generator), torch.zeros(3)  # smaller ones are better
    with monkeypatch.context() as patch:
        patch.setattr(Failing, "end", end)
        patch.setattr(torch.optim, "LBFGS", Failing)
        model = Attention.around(weight, bias, 2, P)
        start = model.weight.clone()
        assert not model.train(matrix, labels, 1e-2, 5)
    assert torch.allclose(model.weight, 0.9 * start)
    assert not model.weight.requires_grad
    assert Attention.around(weight, bias, 2, P).train(matrix, labels, 1e-2, 5)


def test_a_start_or_an_end_that_is_not_found_is_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = marked(60, 0)
    candidates, task = Candidates(features, [MAP], CPU), task_of(labels)
    one = Attentive(l2=(1e-2,), heads=(1,), steps=2)
    chosen = one.choose(candidates, task)
    assert one.refit(candidates, task, chosen).converged
    with monkeypatch.context() as patch:
        patch.setattr(Attention, "train", lambda self, *given: False)
        assert not one.refit(candidates, task, chosen).converged
    monkeypatch.setattr(LogisticFit, "unconverged", (0,))
    assert not one.refit(candidates, task, chosen).converged
