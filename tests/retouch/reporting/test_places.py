"""The map and the neighbors: near in the features is near on the page, nothing is chosen by its looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from finetune.embedding import Embedding, write_embeddings
from finetune.predictions import Predictions
from retouch.reporting.maps import MARKS, class_mark, places_chart
from retouch.reporting.page import html
from retouch.reporting.places import (
    DRAWN,
    NEAR,
    NO_BETTER,
    Agreement,
    Placed,
    agreement,
    agreement_sentence,
    apart,
    layout,
    neighbors,
    placed,
)
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page, inside
from tests.retouch.reporting.runs import EVIL, clusters, facts_of, probe_result, write_probe


def place(embedding: Embedding, n: int = 300) -> Placed | None:
    [entry] = facts_of(probe_result(n=n)).entries
    return placed(replace(entry, embedding=embedding))


def test_places_have_the_labels_and_paths_of_their_rows() -> None:
    found = place(clusters())
    assert found is not None
    assert torch.equal(found.labels, found.rows % 3)
    assert found.paths == tuple(f"animals/{row}.png" for row in found.rows.tolist())


@pytest.mark.parametrize("few", [clusters(19), Embedding(torch.zeros(90, 0).half(), torch.arange(90))])
def test_too_few_images_or_no_features_are_not_placed(few: Embedding) -> None:
    assert place(few) is None


def test_classes_that_lie_apart_lie_apart_on_the_map() -> None:
    found = place(clusters())
    assert found is not None
    points = layout(found.features)
    assert points.min() >= 0
    assert points.max() <= 1
    nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points, return_distance=False)[:, 1]
    assert (found.labels[nearest] == found.labels).all()


def test_neighbors_are_those_by_cosine_and_never_the_image_itself() -> None:
    found = place(clusters(noise=3.0))
    assert found is not None
    near = neighbors(found)
    assert [one.image for one in near] == list(range(DRAWN))
    reference = NearestNeighbors(n_neighbors=NEAR + 1, metric="cosine").fit(found.features)
    expected = reference.kneighbors(found.features[:DRAWN], return_distance=False)[:, 1:]
    assert [list(one.neighbors) for one in near] == expected.tolist()


@pytest.mark.parametrize(("same", "said"), [(0.2, True), (0.5, True), (0.58, True), (0.62, False), (1.0, False)])
def test_neighbors_that_agree_no_more_than_by_chance_are_said_to(same: float, said: bool) -> None:
    """Of 100 images, 60% would be clearly more than 50%: their interval begins at 50.2%."""
    text = agreement_sentence("", Agreement(same, 0.5, 100))
    assert text.endswith(NO_BETTER) == said


def test_agreement_is_compared_with_chance() -> None:
    found = place(clusters())
    assert found is not None
    same, chance, images = agreement(found)
    assert (same, images) == (1.0, 90)
    assert chance == pytest.approx(29 / 89)  # of the 89 others, 29 have the same class


def test_thumbnails_lie_apart_and_come_in_order() -> None:
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).numpy()
    chosen = apart(points, 0.2, 100)
    assert chosen[0] == 0
    assert chosen == sorted(chosen)
    for place in chosen:
        for other in chosen:
            assert place == other or abs(points[place] - points[other]).max() >= 0.2
    assert len(apart(points, 0.01, 7)) == 7


def test_every_class_has_a_mark_of_its_own_and_those_beyond_share_a_faint_one() -> None:
    marks = [class_mark(number) for number in range(MARKS + 2)]
    assert len(set(marks[:MARKS])) == MARKS
    assert marks[MARKS] == marks[MARKS + 1]
    points = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).numpy()
    root = inside(places_chart(points, [0, 12, MARKS], [], "map"))
    assert [one.attrib["class"] for one in root.iter("path")] == ["other", "hue0", "hue2"]


def test_the_page_has_one_map_of_the_task_that_neighbors_agree_on_and_neighbors_without_images_too(
    tmp_path: Path,
) -> None:
    tasks = [probe_result(task="parity", classes=("even", "odd")), probe_result(classes=(EVIL, "dog", "owl"))]
    folder = write_probe(tmp_path / "p", *tasks)
    write_embeddings(folder, [clusters()], [0, 0])
    page = html(read_facts([folder]))
    said = Page(page).said
    assert said.count("test images as denoise sees them") == 1
    assert "animal: test images as denoise sees them" in said  # clusters do not depend on even and odd
    assert "Solid line below: the same class of animal. Dotted line: another class." in said
    assert "8 of 8 in the same class" in said
    assert "The images themselves are not shown" in said
    agree = "% of all 90 images; a neighbor drawn at random would have it for "
    assert f"animal: the nearest neighbor has the same class for 100.0{agree}32.6%." in said
    assert said.count(agree) == 2  # of both tasks
    assert EVIL in said
    for chart in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + chart.split("</svg>")[0] + "</svg>")


def test_without_an_embedding_there_is_no_map() -> None:
    found: tuple[object, Predictions] = probe_result()
    assert facts_of(found).entries[0].embedding is None  # type: ignore[arg-type]
