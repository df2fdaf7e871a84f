"""The map of layers and poolings: drawn where spaces were compared, true to the numbers, and what it says."""

from __future__ import annotations

import pytest

from finetune.predictions import Predictions
from finetune.records import SpaceScore
from finetune.results import ProbeResult
from retouch.reporting.layers import chance_sentences, depth_sentences, layer_map, on_few
from retouch.reporting.maps import layer_chart
from retouch.reporting.parts import page_parts
from tests.retouch.reporting.reading import inside
from tests.retouch.reporting.runs import facts_of, probe_result, space


def searched(*spaces: SpaceScore) -> tuple[ProbeResult, Predictions]:
    """A result whose linear probe, of 600 validation images, compared these; layers 0 to 2 with avg are chosen."""
    result, predictions = probe_result()
    encoder = result.subjects["encoder"]
    choice = result.linear.choice.model_copy(update={"spaces": spaces})
    probes = {**encoder.probes, "linear": result.linear.model_copy(update={"choice": choice})}
    subjects = {**result.subjects, "encoder": encoder.model_copy(update={"probes": probes})}
    return result.model_copy(update={"subjects": subjects}), predictions


def test_a_map_has_a_row_per_layer_and_marks_what_was_chosen() -> None:
    spaces = [space("0+1+2", 0.75), *(space(f"{layer}", 0.5 + layer / 10, "avg+max") for layer in (2, 0, 1))]
    [entry] = facts_of(searched(*spaces, space("0", 0.41))).entries
    found = layer_map(entry)
    assert found is not None
    assert (found.layers, found.poolings) == (("0", "1", "2", "0 to 2"), ("avg", "avg+max"))
    root = inside(layer_chart(found))
    shown = [one.text for one in root.iter("text") if "share" in one.attrib["class"]]
    assert shown == ["41.0", "50.0", "60.0", "70.0", "75.0"]
    boxes = [one for one in root.iter("rect") if one.attrib["class"] == "heat"]
    shades = [float(one.attrib["fill-opacity"]) for one in boxes]
    assert shades == sorted(shades)
    [frame] = [one for one in root.iter("rect") if one.attrib["class"] == "chosen"]
    assert (frame.attrib["x"], frame.attrib["y"]) == (boxes[-1].attrib["x"], boxes[-1].attrib["y"])


def test_accuracies_of_fits_on_few_images_are_marked_and_finalists_have_their_last() -> None:
    spaces = (space("0", 0.5, fitted_on=90), space("1", 0.6, fitted_on=90), space("1", 0.66), space("0+1", 0.7))
    facts = facts_of(searched(*spaces))
    found = layer_map(facts.entries[0])
    assert found is not None
    assert on_few(found) == 90
    assert [one.text for one in inside(layer_chart(found)).iter("text") if one.text][-2:] == ["66.0", "70.0"]
    assert "50.0°" in layer_chart(found)
    [part] = [part for part in page_parts(facts) if part.anchor == "layers"]
    assert "° fitted on 90 images" in f"{part.blocks[0]}"


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.5, 0.6, 0.7), "the last layer, 2, is the best single one, with 70.0%"),
        ((0.5, 0.7, 0.6), "the best single layer is 1, not the last: 70.0% against 60.0%"),
        # the standard error of 70% on 600 images is 1.9 points
        (
            (0.5, 0.7, 0.69),
            "the best single layer, 1, is within one standard error of the last: 70.0% and 69.0%",
        ),
    ],
)
def test_it_is_said_whether_the_last_layer_is_the_best(accuracies: tuple[float, ...], expected: str) -> None:
    single = [space(f"{layer}", accuracy) for layer, accuracy in enumerate(accuracies)]
    assert depth_sentences(facts_of(searched(*single))) == [f"denoise on animal: {expected}."]
    [said] = depth_sentences(facts_of(searched(*single, space("0+1+2", 0.75))))
    chosen = "chosen: layers 0 to 2 (avg), the best of all with 75.0%"
    assert said == f"denoise on animal: {expected}; layers 0 to 2 together reach 75.0%; {chosen}."


def test_a_choice_that_is_not_the_best_number_is_explained() -> None:
    """75% are within one standard error (1.8 points) of 76%."""
    [said] = depth_sentences(facts_of(searched(space("0", 0.7), space("1", 0.76), space("0+1+2", 0.75))))
    assert said.endswith(
        "; chosen: layers 0 to 2 (avg) with 75.0%, preferred, as that is within one standard error of the best, 76.0%."
    )


@pytest.mark.parametrize(("best", "said"), [(0.36, True), (0.3, True), (0.38, False)])
def test_a_map_that_is_no_better_than_a_guess_says_so(best: float, said: bool) -> None:
    """A third of the test images are of each class; of 600 images, 37.2% would be clearly more."""
    facts = facts_of(searched(space("0", 0.2), space("0+1+2", best)))
    found = chance_sentences(facts)
    assert bool(found) == said
    [part] = [part for part in page_parts(facts) if part.anchor == "layers"]
    assert ("none is clearly better than always answering the most frequent class" in f"{part.blocks}") == said


def test_layers_are_compared_among_fits_on_equally_many_images() -> None:
    spaces = (space("0", 0.65, fitted_on=90), space("1", 0.64, fitted_on=90), space("1", 0.75), space("0+1", 0.8))
    [said] = depth_sentences(facts_of(searched(*spaces)))
    assert "fitted on 90 images: the best single layer, 0, is within" in said
    assert "65.0% and 64.0%." in said


@pytest.mark.parametrize("spaces", [(), (space("2", 0.7),)])
def test_there_is_no_map_of_a_single_space_or_of_older_results(spaces: tuple[SpaceScore, ...]) -> None:
    assert "layers" not in [part.anchor for part in page_parts(facts_of(searched(*spaces)))]
