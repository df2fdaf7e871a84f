"""Verdicts: each with the cause that it names, planted in predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from finetune.efficiency import label_efficiency
from finetune.metrics import compare, score
from finetune.worth import LabelEfficiency, LabelPoint, Worth
from retouch.reporting.compare import holm
from retouch.studies.results import Contender, Kind, Role, Validation, Versus
from retouch.studies.verdict import TooShort, detectable, saved, smallest_shown, verdict
from tests.retouch.reporting.runs import answers_of

IMAGES = 400
LABELS = torch.arange(IMAGES) % 4


Rivals = Mapping[Role, tuple[str, float | tuple[float, ...]]]  # names and accuracies: on all tasks, or on each


def told(
    kind: Kind,
    right: float,
    rivals: Rivals,
    tasks: tuple[str, ...] = ("animal",),
    contenders: tuple[Contender, ...] = (),
    too_short: TooShort | None = None,
) -> str:
    """The verdict on a winner of this accuracy next to its rivals.

    Of two classifiers, the better one is right wherever the other is.
    """
    mine = answers_of(LABELS, right, 4)
    pairs = [
        (role, other, share if isinstance(share, float) else share[place], task)
        for role, (other, share) in rivals.items()
        for place, task in enumerate(tasks)
    ]
    found = [compare(mine, answers_of(LABELS, share, 4), LABELS) for _, _, share, _ in pairs]
    adjusted = holm([one.p_value for one in found])
    name = {"pretrained": "resnet18", "simple": "kmeans"}.get(kind, "colorize")
    winner = Contender(name=name, kind=kind, view="rgb", test={task: score(mine, LABELS, 4) for task in tasks})
    versus = [
        Versus(role=role, task=task, one=name, other=other, images=IMAGES, found=one, adjusted_p=p)
        for (role, other, _, task), one, p in zip(pairs, found, adjusted, strict=True)
    ]
    return " ".join(verdict(winner, versus, contenders=contenders, too_short=too_short)).replace("\u00a0", " ")


def test_a_gain_that_is_shown_is_a_yes() -> None:
    rivals: Rivals = {"untrained": ("untrained", 0.6), "pixels": ("pixels", 0.5), "restoring": ("mask", 0.795)}
    said = told("restoring", 0.80, rivals)
    assert said.startswith("Yes: colorize beats the untrained network by 20.0 points [")
    assert "colorize beats raw pixels by 30.0 points [" in said
    assert said.endswith("colorize is not shown to beat mask (+0.5 points [0.0, 1.2]).")


def hits(*shares: float) -> dict[int, torch.Tensor]:
    """Of two draws of 100, 200 and 400 labels, and of all 800: which of 1,000 test images are right."""
    counts = (100, 200, 400, 800)
    return {
        count: (torch.arange(1000) < 1000 * share).expand(1 if count == 800 else 2, -1)
        for count, share in zip(counts, shares, strict=True)
    }


def test_a_gain_is_worth_the_labels_that_the_untrained_network_needs_more() -> None:
    """With 200 labels the encoder is right on 60%, which the untrained network is with 800; with 400 it is never."""
    found = label_efficiency({"encoder": hits(0.5, 0.6, 0.7, 0.8), "random_init": hits(0.3, 0.4, 0.5, 0.6)})
    assert saved(found).startswith("with 200 labels, that is worth about 600 more [")
    rivals: Rivals = {"untrained": ("untrained", 0.6)}
    mine, theirs = answers_of(LABELS, 0.8, 4), answers_of(LABELS, 0.6, 4)
    winner = Contender(name="colorize", kind="restoring", view="rgb", test={"animal": score(mine, LABELS, 4)})
    versus = Versus(
        role="untrained",
        task="animal",
        one="colorize",
        other="untrained",
        images=IMAGES,
        found=compare(mine, theirs, LABELS),
        adjusted_p=0.0,
    )
    said = verdict(winner, [versus], {"animal": found})[0]
    assert told("restoring", 0.80, rivals)[:-1] + "; " + saved(found) + "." == said.replace("\u00a0", " ")


def test_what_a_gain_is_worth_is_said_of_each_task() -> None:
    found = label_efficiency({"encoder": hits(0.5, 0.6, 0.7, 0.8), "random_init": hits(0.3, 0.4, 0.5, 0.6)})
    mine, theirs = answers_of(LABELS, 0.8, 4), answers_of(LABELS, 0.6, 4)
    tasks = ("animal", "color")
    winner = Contender(name="colorize", kind="restoring", view="rgb", test={"animal": score(mine, LABELS, 4)})
    against = compare(mine, theirs, LABELS)
    versus = [
        Versus(role="untrained", task=task, one="colorize", other="u", images=IMAGES, found=against, adjusted_p=0.0)
        for task in tasks
    ]
    first, *rest = verdict(winner, versus, {"color": found, "animal": found})
    assert first.startswith("Yes, in both comparisons: colorize beats the untrained network by ")
    assert first.count(". ") == 0  # one sentence: what the gain is worth on each task follows
    assert rest[-2:] == [f"On color, {saved(found)}.", f"On animal, {saved(found)}."]


def test_an_interval_that_goes_beyond_the_curve_says_so() -> None:
    worth = Worth(labels=200, equals=800, ci95=(None, None))
    curve = tuple(LabelPoint(labels=count, draws=(0.5,)) for count in (200, 800))
    found = LabelEfficiency(
        protocol="", curves={"encoder": curve, "random_init": curve}, worth={"random_init": (worth,)}
    )
    assert saved(found) == "with 200 labels, that is worth about 600 more [more than 600, more than 600]"


def test_a_gain_whose_worth_is_not_above_its_labels_says_that_it_is_not_known() -> None:
    worth = Worth(labels=200, equals=150, ci95=(100, 200))
    curve = tuple(LabelPoint(labels=count, draws=(0.5,)) for count in (200, 800))
    found = LabelEfficiency(
        protocol="", curves={"encoder": curve, "random_init": curve}, worth={"random_init": (worth,)}
    )
    assert saved(found) == "what that is worth in labels is not known"


def test_a_gain_that_no_labels_reach_is_said_so() -> None:
    found = label_efficiency({"encoder": hits(0.7, 0.8, 0.9, 0.95), "random_init": hits(0.3, 0.4, 0.5, 0.6)})
    assert saved(found) == "with 100 labels, it is ahead of that network with all 800"


def test_no_difference_is_shown_and_what_could_not_be_seen() -> None:
    said = told("restoring", 0.61, {"untrained": ("untrained", 0.60)})
    assert said.startswith("No difference shown: colorize and the untrained network differ by 1.0 points [")
    assert "with 400 test images, differences below 1.4 points are often missed" in said  # 4 of 400 images differ


def test_training_may_make_features_worse() -> None:
    said = told("restoring", 0.50, {"untrained": ("untrained", 0.60)})
    assert said.startswith("No: colorize is worse than the untrained network, by 10.0 points [")


def test_a_better_model_that_others_trained_is_a_no() -> None:
    rivals: Rivals = {"untrained": ("untrained", 0.5), "restoring": ("colorize", 0.67)}
    said = told("pretrained", 0.70, rivals)
    assert said.startswith("No: the pretrained resnet18 beats colorize by 3.0 points [")
    # on validation it was second, and the test shows that it is better
    said = told("restoring", 0.70, {"untrained": ("untrained", 0.5), "pretrained": ("resnet18", 0.8)})
    assert said.startswith("No: the pretrained resnet18 beats colorize by 10.0 points [")
    # the rest is about the winner
    assert "colorize beats the untrained network by 20.0 points" in said


def test_an_untrained_network_or_pixels_that_are_better_are_a_no() -> None:
    said = told("untrained", 0.70, {"restoring": ("mask", 0.60)})
    assert said.startswith("No: the untrained network beats mask by 10.0 points [")
    said = told("pixels", 0.70, {"restoring": ("mask", 0.60)})
    assert said.startswith("No: raw pixels beat mask by 10.0 points [")


def test_a_winner_that_is_worse_than_another_network_is_said_to_be() -> None:
    said = told("restoring", 0.70, {"untrained": ("untrained", 0.5), "restoring": ("mask", 0.8)})
    assert said.startswith("Yes: colorize beats the untrained network by 20.0 points [")
    assert "colorize is worse than mask by 10.0 points [" in said


def test_without_its_untrained_network_nothing_is_known_of_a_winner() -> None:
    said = told("restoring", 0.70, {"pixels": ("pixels", 0.5)})
    assert said.startswith(
        "Not known: colorize was not compared with its untrained network. colorize beats raw pixels by"
    )


def test_a_better_network_from_scratch_is_a_no() -> None:
    said = told("restoring", 0.60, {"untrained": ("untrained", 0.5), "scratch": ("scratch", 0.75)})
    assert said.startswith("No: training from scratch on the labels beats colorize by 15.0 points [")


def test_a_simple_method_that_is_better_or_as_good_is_a_no() -> None:
    said = told("simple", 0.70, {"restoring": ("colorize", 0.60)})
    assert said.startswith("No: kmeans, which trains no network, beats colorize by 10.0 points [")
    said = told("simple", 0.70, {"restoring": ("colorize", 0.695)})
    assert said.startswith(
        "No gain shown: kmeans, which trains no network, is best on validation; on the test images, no difference from "
        "colorize is shown (+0.5 points ["
    )
    assert "with 400 test images, differences below" in said


def test_a_simple_method_that_was_best_on_validation_alone_is_no_clear_answer() -> None:
    said = told("simple", 0.60, {"restoring": ("colorize", 0.70)})
    best = "No clear answer: kmeans, which trains no network, is best on validation, but"
    assert said.startswith(f"{best} on the test images colorize beats kmeans by 10.0 points [")
    said = told("simple", 0.60, {"restoring": ("colorize", (0.50, 0.598))}, ("animal", "color"))
    assert said.startswith(f"{best} the tasks differ. kmeans beats colorize on animal by 10.0 points [")
    assert "kmeans is not shown to beat colorize on color (+0.2 points [" in said


def test_the_gain_of_the_best_network_is_named_even_if_it_did_not_win() -> None:
    gain = compare(answers_of(LABELS, 0.6, 4), answers_of(LABELS, 0.5, 4), LABELS)
    mask = raced(0.4, 0.5).model_copy(update={"over_twin": {"animal": gain}})
    rivals: Rivals = {"restoring": ("mask", 0.6), "untrained": ("untrained_gray", 0.5)}
    said = told("simple", 0.7, rivals, contenders=(mask,))
    assert "Pretraining raised the accuracy of mask by 10.0 points [" in said
    assert "kmeans beats the untrained network of mask by 20.0 points [" in said
    harm = compare(answers_of(LABELS, 0.5, 4), answers_of(LABELS, 0.6, 4), LABELS)
    worse = told("simple", 0.7, rivals, contenders=(mask.model_copy(update={"over_twin": {"animal": harm}}),))
    assert "Pretraining lowered the accuracy of mask by 10.0 points [" in worse
    little = compare(answers_of(LABELS, 0.6, 4), answers_of(LABELS, 0.5975, 4), LABELS)
    same = told("simple", 0.7, rivals, contenders=(mask.model_copy(update={"over_twin": {"animal": little}}),))
    assert "Pretraining is not shown to change the accuracy of mask (+0.2 points [0.0, 0.8])." in same
    alone = compare(answers_of(LABELS, 0.6, 4), answers_of(LABELS, 0.585, 4), LABELS)
    assert alone.p_value < 0.05 < 2 * alone.p_value
    assert alone.ci95[0] > 0
    open_ = told("simple", 0.7, rivals, contenders=(mask.model_copy(update={"over_twin": {"animal": alone}}),))
    assert "Pretraining is not shown to change the accuracy of mask (+1.5 points [" in open_  # of two comparisons


def test_a_simple_method_that_beats_the_network_chosen_on_validation_is_a_no() -> None:
    said = told("restoring", 0.60, {"untrained": ("untrained", 0.5), "simple": ("kmeans", 0.70)})
    assert said.startswith("No: kmeans, which trains no network, beats colorize by 10.0 points [")
    assert "colorize beats the untrained network by 10.0 points" in said
    said = told("restoring", 0.60, {"untrained": ("untrained", 0.5), "pixels": ("pixels", 0.70)})
    assert said.startswith("No: raw pixels beat colorize by 10.0 points [")


def raced(*accuracies: float) -> Contender:
    """A network after rungs that end at 10 s, 40 s, ..."""
    rungs = [
        Validation(rung=rung, steps=rung * 100, seconds=rung * 30.0 - 20, accuracy={"animal": right})
        for rung, right in enumerate(accuracies, start=1)
    ]
    score_ = score(LABELS, LABELS, 4)
    return Contender(name="mask", kind="restoring", view="rgb", test={"animal": score_}, validations=tuple(rungs))


def test_a_no_says_how_long_the_best_network_was_trained_and_whether_it_still_rose() -> None:
    rivals: Rivals = {"restoring": ("mask", 0.6)}
    rising = told("simple", 0.7, rivals, contenders=(raced(0.455, 0.473), raced(0.5)))
    assert rising.endswith(
        "mask was trained for 40 s (200 steps), and its validation accuracy rose from 45.5% after 10 s to 47.3% at the "
        "end; a larger budget may change this answer."
    )
    flat = told("simple", 0.7, rivals, contenders=(raced(0.455, 0.455),))
    assert flat.endswith(
        "(200 steps), and its validation accuracy rose no further: it was 45.5% after 10 s and 45.5% at the end."
    )
    once = told("simple", 0.7, rivals, contenders=(raced(0.455),))
    assert once.endswith("mask was trained for 10 s (100 steps); a larger budget may change this answer.")
    assert "trained for" not in told("restoring", 0.7, {"untrained": ("u", 0.5)}, contenders=(raced(0.4, 0.5),))
    assert "trained for" in told("restoring", 0.7, {"untrained": ("u", 0.7)}, contenders=(raced(0.4, 0.5),))


def test_without_a_trained_network_the_best_of_the_rest_is_named() -> None:
    said = told("simple", 0.70, {"pixels": ("pixels", 0.5)})
    assert said.startswith("No network was trained to restore images: kmeans, which trains no network, is best")


@pytest.mark.parametrize(
    ("kind", "best"),
    [
        ("simple", "kmeans, which trains no network, is best on validation. kmeans beats raw pixels by 20.0 points ["),
        (
            "untrained",
            "the untrained network is best on validation. The untrained network beats raw pixels by 20.0 points [",
        ),
    ],
)
def test_without_time_for_a_network_the_question_is_not_answered(kind: Kind, best: str) -> None:
    rivals: Rivals = {"pixels": ("pixels", 0.5), "scratch": ("scratch", 0.9)}
    said = told(kind, 0.70, rivals, too_short=TooShort(120.0, 5))
    first = "Not answered: 120 s are too few to train a network on these images; try budget=5m."
    assert said.startswith(f"{first} Of the rest, {best}")
    assert "is worse than training from scratch on the labels by" in said


def test_several_tasks_are_answered_together() -> None:
    said = told("restoring", 0.8, {"untrained": ("untrained", 0.6)}, ("animal", "color"))
    assert said.startswith("Yes, in both comparisons: colorize beats the untrained network by 20.0 points")


def test_one_chance_finding_of_many_comparisons_is_not_shown() -> None:
    """Six more images of 400 are p = 0.03 alone; as one of six comparisons that is not shown."""
    rivals: Rivals = {"untrained": ("untrained", 0.585)}
    assert told("restoring", 0.60, rivals).startswith("Yes")
    roles: tuple[Role, ...] = ("pixels", "simple", "restoring", "pretrained", "scratch")
    many: Rivals = {**{role: (role, 0.6) for role in roles}, **rivals}
    said = told("restoring", 0.60, many)
    assert said.startswith("No difference shown")
    # the interval excludes zero, and the limit is not below the difference: both are said
    assert "differ by 1.5 points [" in said
    assert "with 400 test images and 6 comparisons, differences below 2.1 points are often missed" in said
    assert "(p = 0.031 alone, p = 0.19 after correction)" in said


def test_the_limit_of_a_difference_that_is_not_shown_is_never_below_it() -> None:
    """Eight against none of 400, as one of twelve comparisons."""
    tasks = tuple(f"task {number}" for number in range(12))
    others = {task: answers_of(LABELS, 0.58 if task == tasks[0] else 0.6, 4) for task in tasks}
    mine = answers_of(LABELS, 0.6, 4)
    found = [compare(mine, others[task], LABELS) for task in tasks]
    adjusted = holm([one.p_value for one in found])
    versus = [
        Versus(role="restoring", task=task, one="kmeans", other="mask", images=IMAGES, found=one, adjusted_p=p)
        for task, one, p in zip(tasks, found, adjusted, strict=True)
    ]
    assert (found[0].n10, found[0].n01) == (8, 0)
    assert adjusted[0] > 0.05
    assert smallest_shown(found[0], IMAGES, len(versus)) > found[0].difference


def test_detectable_difference_is_found_in_four_of_five_samples() -> None:
    """By simulation: at the smallest detectable difference, McNemar's test has a power of about 80%."""
    images, discordance = 1000, 0.2
    least = detectable(images, discordance)
    assert least == pytest.approx((1.959964 + 0.841621) * math.sqrt(discordance / images), rel=1e-5)
    better, worse = (discordance + least) / 2, (discordance - least) / 2
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4000, images, generator=generator)
    n10, n01 = (drawn < better).sum(1), ((drawn >= better) & (drawn < better + worse)).sum(1)
    shown = (n10 - n01).abs() / (n10 + n01).sqrt() > 1.96
    assert 0.75 < float(shown.double().mean()) < 0.87
