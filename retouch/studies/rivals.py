"""What the winner of a study is compared with, and with which results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from finetune.metrics import compare
from retouch.reporting.compare import holm
from retouch.studies.field import Field
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.results import Role, Versus
from retouch.studies.verdict import is_shown

Answers = dict[str, dict[str, Tensor]]  # predictions, int64 [n] each, by contestant and task


def rivals_of(winner: str, field: Field, ranked: Sequence[str]) -> dict[Role, str]:
    """The contestants that the winner is compared with, by their role.

    Args:
        ranked: all judged contestants, the best on validation first.
    """
    of = {one.name: one for one in field.all}

    def best(kind: str) -> str | None:
        return next((name for name in ranked if of[name].kind == kind and name != winner), None)

    leader = winner if of[winner].kind == "restoring" else best("restoring")
    twin = next((one.twin for one in field.restoring if one.name == leader), None)
    found: dict[Role, str | None] = {
        "untrained": twin or best("untrained"),
        "pixels": "pixels",
        "simple": best("simple"),
        "restoring": best("restoring"),
        "pretrained": best("pretrained"),
    }
    if of[winner].kind == "untrained":
        del found["untrained"]  # it is of another network
    return {role: name for role, name in found.items() if name is not None and name != winner}


def compared(
    winner: str, rivals: Mapping[Role, str], answers: Answers, labels: Mapping[str, Tensor], unknown: int = 0
) -> tuple[Versus, ...]:
    """The winner against its rivals on every task, corrected together.

    Args:
        labels: of the test images, by task.
        unknown: comparisons that are still to come. Each counts as p = 1, so that a difference that is shown now will
            still be shown then.
    """
    pairs = [
        (role, other, task, compare(said, answers[other][task], labels[task]))
        for role, other in rivals.items()
        for task, said in answers[winner].items()
    ]
    adjusted = holm([*(found.p_value for *_, found in pairs), *[1.0] * unknown])
    return tuple(
        Versus(role=role, task=task, one=winner, other=other, images=len(labels[task]), found=found, adjusted_p=p)
        for (role, other, task, found), p in zip(pairs, adjusted, strict=False)
    )


def gain_shown(comparisons: Sequence[Versus]) -> bool:
    """Whether the winner is shown to be better than its untrained network on at least one task."""
    return any(one.role == "untrained" and one.found.difference > 0 and is_shown(one) for one in comparisons)


def labels_of_tests(sets: Sequence[LabelSet]) -> dict[str, Tensor]:
    """Labels of the test images by task, int64 ``[n]`` each."""
    return {
        title: part.images.tasks[task][1].values for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    }
