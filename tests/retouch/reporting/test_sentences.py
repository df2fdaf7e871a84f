"""Every sentence of the report has its cause: planted, it is said; without it, it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.results import Comparison
from retouch.reporting.answer import answered, verdict
from retouch.reporting.card import card
from retouch.reporting.choices import chosen, touched
from retouch.reporting.compare import Contrast, gains, holm, rivals
from retouch.reporting.facts import Facts
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.question import about, question
from retouch.reporting.reading import read_facts
from retouch.reporting.runs import Neighbors, Settings
from retouch.reporting.sentences import half_width, interval, listed, points, signed
from retouch.reporting.tables import choice_terms, probe_tables
from retouch.reporting.training import restoration
from tests.retouch.reporting.runs import LABELS, RIGHT, facts_of, probe_result, write_finetuning, write_pretraining


def encoders(**accuracies: float) -> Facts:
    """Encoders with these accuracies on one task, each with an untrained network that is right on half."""
    right: Mapping[str, float] = {"random_init": 0.5}
    return facts_of(
        *(
            probe_result({"encoder": share, **right}, pretext=name, sha256=name[0] * 64)
            for name, share in accuracies.items()
        )
    )


# ---- words


def test_numbers_are_percent_with_a_true_minus() -> None:
    assert (signed(0.024), signed(-0.031), signed(-0.0001)) == ("+2.4", "−3.1", "+0.0")
    assert interval(-0.012, 0.163).replace("\u00a0", " ") == "[−1.2, 16.3]"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([]) == ""


def test_a_loss_is_said_as_a_size_with_its_ends_in_order() -> None:
    found = Comparison(difference=-0.1, ci95=(-0.15, -0.04), p_value=0.001, n10=1, n01=9)
    assert points(found).replace("\u00a0", " ") == "10.0 points [4.0, 15.0]"


def test_17_images_of_a_class_leave_21_points_either_way() -> None:
    assert round(100 * half_width(17)) == 21  # Wilson: z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n)


# ---- which differences are shown


def test_holm_agrees_with_a_case_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_are_larger_bounded_and_in_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= more <= 1 for p, more in zip(p_values, adjusted, strict=True))
    ranked = sorted(range(len(p_values)), key=lambda place: p_values[place])
    assert [adjusted[place] for place in ranked] == sorted(adjusted)


def contrast(low: float, high: float, p: float = 0.001, one: str = "denoise", task: str = "animal") -> Contrast:
    found = Comparison(difference=(low + high) / 2, ci95=(low, high), p_value=p, n10=9, n01=1)
    return Contrast(task, one, "random_init", found, p)


@pytest.mark.parametrize(
    ("low", "high", "p", "shown"),
    [(0.1, 0.2, 0.01, "better"), (-0.2, -0.1, 0.01, "worse"), (-0.1, 0.2, 0.01, "open"), (0.1, 0.2, 0.06, "open")],
)
def test_a_difference_is_shown_by_both_its_interval_and_its_p(low: float, high: float, p: float, shown: str) -> None:
    assert contrast(low, high, p).shown == shown


def test_many_comparisons_need_a_smaller_p() -> None:
    facts = encoders(alpha=0.58)
    [alone] = gains(facts, "random_init")
    assert alone.adjusted_p == alone.found.p_value
    among = gains(encoders(alpha=0.58, beta=0.58, gamma=0.58), "random_init")
    assert among[0].adjusted_p == pytest.approx(min(1.0, 3 * alone.found.p_value))


def test_raw_pixels_of_another_run_on_the_same_images_are_compared_too() -> None:
    one = probe_result(RIGHT)
    other = probe_result({"encoder": 0.9, "random_init": 0.5}, pretext="colorize", sha256="b" * 64)
    found = {contrast.one: contrast.found for contrast in gains(facts_of(one, other), "pixels")}
    assert found["colorize"].difference == pytest.approx(0.5)
    elsewhere = replace(other[1], paths=tuple(f"b/{row}" for row in range(300)))
    assert len(gains(facts_of(one, (other[0], elsewhere)), "pixels")) == 1


# ---- the verdict


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([contrast(0.129, 0.161)], "Yes: denoise beats the untrained network on animal by 14.5 points [12.9, 16.1] "
                                   "(McNemar p = 0.001)."),
        ([contrast(-0.161, -0.129)], "No: denoise is worse than the untrained network on animal, by 14.5 points "
                                     "[12.9, 16.1] (McNemar p = 0.001)."),
        ([contrast(-0.01, 0.02, 0.5)], "No difference shown: on animal, denoise and the untrained network differ by "
                                       "0.5 points [−1.0, 2.0] (McNemar p = 0.5), in favor of denoise."),
        ([contrast(-0.02, 0.01, 0.5)], "No difference shown: on animal, denoise and the untrained network differ by "
                                       "0.5 points [−1.0, 2.0] (McNemar p = 0.5), in favor of the untrained network."),
        ([contrast(0.1, 0.2), contrast(0.2, 0.3, task="plant")],
         "Yes, in both comparisons: denoise beats the untrained network by 15.0 points [10.0, 20.0] on animal to 25.0 "
         "points [20.0, 30.0] on plant."),
        ([contrast(0.1, 0.2), contrast(0.2, 0.3, one="mask")],
         "Yes, in both comparisons: the trained encoder beats the untrained network by 15.0 points [10.0, 20.0] "
         "(denoise on animal) to 25.0 points [20.0, 30.0] (mask on animal)."),
        ([contrast(0.1, 0.2), contrast(-0.1, 0.2, one="mask"), contrast(-0.3, -0.2, one="pca")],
         "In 1 of 3 comparisons: denoise beats the untrained network on animal by 15.0 points [10.0, 20.0]; for mask "
         "on animal no difference is shown and for pca on animal it is worse."),
        ([contrast(-0.1, 0.2), contrast(-0.1, 0.3, one="mask")],
         "No difference shown in any of 2 comparisons with the untrained network: the largest is mask on animal, 10.0 "
         "points [−10.0, 30.0]."),
        ([contrast(-0.2, -0.1), contrast(-0.1, 0.3, one="mask")],
         "No: denoise is worse than the untrained network on animal by 15.0 points [10.0, 20.0]; for mask on animal no "
         "difference is shown."),
    ],
)  # fmt: skip
def test_what_comparisons_show_is_said_in_one_sentence(found: list[Contrast], said: str) -> None:
    assert answered(found, "the untrained network").replace("\u00a0", " ") == said


def test_the_question_names_few_encoders_and_counts_many() -> None:
    assert question(encoders(denoise=0.8)) == "Does denoise beat the same network untrained?"
    assert question(encoders(denoise=0.8, mask=0.7)) == "Do denoise and mask beat the same networks untrained?"
    many = encoders(a=0.8, b=0.8, c=0.8, d=0.8)
    assert question(many) == "Do these 4 encoders beat the same networks untrained?"


def test_a_verdict_is_two_sentences_with_the_difference_as_it_was_measured() -> None:
    said, more = verdict(encoders(denoise=0.8))
    assert len(said) == 2
    assert said[0].startswith("Yes: denoise beats the untrained network on animal by 30.0 points [")
    assert said[0].endswith("(McNemar p < 0.001).")
    assert more == (
        "Measured with linear probes (linear classifiers on the frozen features) of 1 encoder on 1 task, on 300 test "
        "images of animals-test; each encoder was trained once.",
    )
    assert said[1].startswith("The linear probe's accuracy is 80.0% [")
    assert said[1].endswith("on animal, where the most frequent class alone gives 33.3%.")


def test_the_better_of_two_encoders_is_named_only_where_that_is_shown() -> None:
    assert (
        verdict(encoders(denoise=0.6, mask=0.8))
        .all[1]
        .startswith("Of the encoders, mask is best on animal (by 20.0 points")
    )
    assert verdict(encoders(denoise=0.8, mask=0.8)).all[1] == "Of the encoders, on animal none is shown to be best."
    assert [one.one for one in rivals(encoders(denoise=0.6, mask=0.8))] == ["mask"]


def test_the_best_encoder_is_not_praised_for_color_that_the_other_could_not_see_without_saying_so() -> None:
    seeing = probe_result({"encoder": 0.8, "random_init": 0.5}, needs_color=True)
    for gray in (True, False):
        other = probe_result(
            {"encoder": 0.6, "random_init": 0.5}, pretext="colorize", sha256="c" * 64, gray=gray, needs_color=True
        )
        said = verdict(facts_of(seeing, other)).all[1]
        assert ("], but colorize saw gray only)." in said) == gray


def test_two_seeds_of_one_pretext_are_not_said_to_be_trained_once() -> None:
    both = facts_of(probe_result(sha256="a" * 64), probe_result(sha256="b" * 64))
    assert "of 2 encoders on 1 task, on 300 test images of animals-test." in verdict(both).more[0]


def test_without_an_untrained_network_there_is_no_verdict() -> None:
    facts = facts_of(probe_result({"encoder": 0.8}))
    assert "the untrained network was not probed" in verdict(facts).all[0]
    assert "No comparison with the same network untrained on animal." in limits(facts)
    assert "No comparison with raw pixels on animal." in limits(facts)


def test_results_of_version_1_have_no_verdict() -> None:
    assert "schema version 1" in verdict(facts_of(probe_result(compared=False))).all[0]


def test_fine_tuning_is_compared_with_training_from_scratch(tmp_path: Path) -> None:
    facts = read_facts([write_finetuning(tmp_path / "full-1")])
    assert question(facts) == "Does fine-tuning beat training from scratch?"
    assert verdict(facts).all[0].startswith("Yes: full-1 beats training from scratch on animal by 30.0 points [")
    assert verdict(facts).all[1].startswith("The trained network's accuracy is 90.0% [")
    alone = read_facts([write_finetuning(tmp_path / "alone", scratch=None)])
    assert question(alone) == "How accurate is the trained network?"
    assert verdict(alone).all[0].startswith("Not compared")


def test_pretraining_alone_says_what_is_missing(tmp_path: Path) -> None:
    facts = read_facts([write_pretraining(tmp_path / "mine")])
    assert question(facts) == "What has denoise learned?"
    assert verdict(facts).all[0].startswith("Not known yet")
    assert f"retouch probe linear encoder={tmp_path}/mine " in verdict(facts).all[1]
    assert about(facts) == "1 pretraining run, 2026-01-31: mine."


def test_what_restoring_means_is_said_next_to_trivial_restorers_and_what_is_wrong_is_a_limit(tmp_path: Path) -> None:
    facts = read_facts([write_pretraining(tmp_path / "mine", wrong="the network returns its input")])
    [said] = restoration(facts)
    assert said.startswith(
        "mine: step 300: better than non-local means (PSNR 27.1 against 25.9) on 24 held-out images;"
    )
    assert said.endswith(" A fault was found: the network returns its input.")
    assert "mine: the network returns its input." in limits(facts)
    assert card(facts).count("the network returns its input") == 1
    well = read_facts([write_pretraining(tmp_path / "well")])
    assert "No training fault was found" in restoration(well)[0]
    assert limits(well) == []


def test_a_remark_of_the_training_is_said_once_and_is_no_fault(tmp_path: Path) -> None:
    facts = read_facts([write_pretraining(tmp_path / "mine", wrong="it knows its pictures", kind="memorizing")])
    [said] = restoration(facts)
    assert "No training fault was found" in said
    assert said.endswith(" Note: it knows its pictures.")
    assert [text for text in limits(facts) if "it knows" in text] == []
    assert html(facts).count("it knows its pictures") == 1
    assert card(facts).count("it knows its pictures") == 1


# ---- the test set, and limits


def test_every_answer_to_the_test_set_is_counted() -> None:
    [said] = [text for text in chosen(facts_of(probe_result(damage=["gray", "holes"]))) if "used once" in text]
    assert said == (
        "The 300 test images of animals-test were used once by each of 6 classifiers, 4 of them only for "
        "comparison, and damaged copies of them 2 times, by the same classifiers; no choice was based on them."
    )
    generated = facts_of(probe_result(train="shapes:train:20"))
    assert touched(generated)[0].startswith("The 300 generated test images (shapes:train:20-test) were used once by")
    assert "on 300 generated test images (shapes:train:20-test);" in verdict(generated).more[0]
    assert "5-fold cross-validation" in chosen(facts_of(probe_result()))[0]


def tried(*k: int) -> Facts:
    """A probe whose k-NN chose 20 of these numbers of neighbors."""
    facts = facts_of(probe_result())
    [run] = facts.probes
    settings = Settings(knn=Neighbors(k=k))
    return Facts(probes=(replace(run, origin=replace(run.origin, settings=settings)),))


def test_terms_are_explained_where_choices_are_shown_and_only_those_that_are_there() -> None:
    said = " ".join(choice_terms(facts_of(probe_result())))
    for term in ("Layers are", "avg is", "l2 is", "k-NN answers", "Smallest or largest tried"):
        assert term in said
    assert "prior" not in said
    assert choice_terms(Facts()) == []


LIMITS = [
    (tried(100, 20), "k-NN tried only 20 and 100 neighbors (knn.k), and chose the fewest or the most for denoise on"),
    (facts_of(probe_result(n=51)), "51 test images: the interval of an accuracy extends up to 13.2 points"),
    (
        facts_of(probe_result(n=51)),
        "17 test images per class: the interval of a class's accuracy extends up to 21.4 points to either",
    ),
    (facts_of(probe_result(train="shapes:train:10")), "The images of shapes are drawn by a program"),
    (encoders(denoise=0.8), "Each encoder was trained once."),
    (encoders(denoise=0.8), "Each gain is over a single untrained network"),
    (encoders(denoise=0.8), "The labeled images that classifiers learned from are one random draw."),
    (encoders(denoise=0.8, mask=0.7), "2 encoders were tested on the same images"),
    (facts_of(probe_result(), left_out=["runs/x has not finished"]), "Left out: runs/x has not finished."),
    (facts_of(probe_result(), notes=["the grid ends"]), "The grid ends."),
]


@pytest.mark.parametrize(("facts", "said"), LIMITS)
def test_a_limit_is_said_where_its_cause_is(facts: Facts, said: str) -> None:
    assert [text for text in limits(facts) if text.startswith(said)]


@pytest.mark.parametrize("said", [said for _, said in LIMITS[3:] if not said.startswith(("Each", "The labeled"))])
def test_a_limit_is_not_said_without_its_cause(said: str) -> None:
    assert not [text for text in limits(facts_of(probe_result())) if text.startswith(said[:20])]


def test_how_much_another_draw_would_change_is_said_where_draws_were_measured() -> None:
    result, predictions = probe_result()
    measured = facts_of((result.model_copy(update={"label_efficiency": LABELS}), predictions))
    [said] = [text for text in limits(measured) if text.startswith("The labeled images that classifiers learned from")]
    found = "on animal, the accuracy of denoise over draws of 60 labels has a standard deviation of 7.1 points."
    assert said.endswith(f"Draws of fewer labels show how much: {found}")


def test_classifiers_of_fewer_labels_are_counted_among_those_that_saw_the_test_images() -> None:
    result, predictions = probe_result()
    [before] = touched(facts_of((result, predictions)))
    [after] = touched(facts_of((result.model_copy(update={"label_efficiency": LABELS}), predictions)))
    # two draws of 60 labels for the encoder, its untrained network and raw pixels; with all labels, it is the probe
    assert "used once by each of 6 classifiers, 4 of them only for comparison" in before
    assert "used once by each of 12 classifiers, 8 of them only for comparison" in after


@pytest.mark.parametrize("k", [(), (20,), (10, 20, 100)])
def test_neighbors_between_those_tried_are_no_limit(k: tuple[int, ...]) -> None:
    assert not [text for text in limits(tried(*k)) if text.startswith("k-NN")]


def test_two_seeds_of_one_pretext_take_the_limit_of_one_seed_away() -> None:
    both = facts_of(probe_result(sha256="a" * 64), probe_result(sha256="b" * 64))
    assert not [text for text in limits(both) if text.startswith(("Each encoder was trained once.", "Each gain"))]


def test_several_networks_on_the_same_test_images_are_said(tmp_path: Path) -> None:
    runs = [write_finetuning(tmp_path / name) for name in ("one", "two")]
    said = "2 networks were tested on the same images. Using the one that is best on them means choosing on the test"
    assert [text for text in limits(read_facts(runs)) if text.startswith(said)]
    assert not [text for text in limits(read_facts(runs[:1])) if "networks were tested" in text]


def uneven_facts() -> Facts:
    """270 test images of one class and 15 of each other."""
    result, predictions = probe_result()
    confusion = ((270, 0, 0), (15, 0, 0), (0, 15, 0))
    test = result.linear.test.model_copy(update={"confusion": confusion, "balanced_accuracy": 1 / 3, "macro_f1": 0.25})
    probes = {"linear": result.linear.model_copy(update={"test": test})}
    subject = result.subjects["encoder"].model_copy(update={"probes": probes})
    return facts_of((result.model_copy(update={"subjects": {**result.subjects, "encoder": subject}}), predictions))


def test_an_uneven_test_set_is_said() -> None:
    said = limits(uneven_facts())
    assert "Always answering the most frequent class would be right for 90.0% of the images." in said
    assert [text for text in said if text.startswith("15 test images of dog, the smallest class: ")]


def test_the_balanced_accuracy_is_shown_where_the_test_set_is_uneven() -> None:
    [table] = probe_tables(uneven_facts())
    place = [column.text for column in table.columns].index("balanced")
    assert table.rows[0][place].text == "33.3"
    place = [column.text for column in table.columns].index("macro F1")
    assert table.rows[0][place].text == "25.0"
    assert "balanced" not in [column.text for column in probe_tables(facts_of(probe_result()))[0].columns]


def test_an_encoder_that_was_not_probed_is_named(tmp_path: Path) -> None:
    runs = [write_pretraining(tmp_path / name, sha256=name[0] * 64) for name in ("a-run", "z-run")]
    probes = facts_of(probe_result(sha256="a" * 64)).probes
    assert "Not probed here: z-run." in limits(Facts(pretraining=read_facts(runs).pretraining, probes=probes))
