"""Facts in plain English: pure functions from facts to sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.words import true_minus
from finetune.metrics import SeedComparison, wilson_interval
from finetune.results import Comparison, Score
from finetune.structured_results import LabelComparison
from finetune.table import NETWORKS
from finetune.worth import LabelEfficiency

NARROW = "\u00a0"  # keeps the two ends of an interval on one line
NAMED = 3  # encoders or tasks that are listed by name
LEGEND = (
    "In the charts, the dot is the encoder's linear probe with its 95% interval, the ring is that of {}, and "
    "the tick is the accuracy of always answering the most frequent class."
)
RULE = (
    "Brackets: 95% intervals. Bold: the difference is shown, which means that its interval excludes zero and that "
    "McNemar's exact test on the same test images gives p < 0.05 after Holm's correction for all differences on this "
    "page from the same baseline with the same probe."
)
NOT_BOLD = (
    "Some differences are not bold although their intervals exclude zero: an interval is for one comparison, and of "
    "several, some exclude zero by chance. McNemar's exact test, corrected for all of them, decides."
)
LABELS_RULE = (
    "Bars and brackets: 95% intervals, over test images and, by Student's t, over draws of the labeled images. All "
    "labels are a single draw, so their intervals are over test images alone; of several trainings from scratch, "
    "Student's t over these counts as well."
)


# ---- words and numbers


def number(share: float) -> str:
    """A share in percent, ``71.2``."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def signed(share: float) -> str:
    """A difference in points, ``+2.4``, with a true minus."""
    return true_minus(f"{round(100 * share, 1) + 0.0:+.1f}")


def interval(low: float, high: float) -> str:
    """``[70.2, 72.2]``, in percent."""
    return true_minus(f"[{number(low)}, {number(high)}]").replace(" ", NARROW)


def points(found: Comparison | LabelComparison | SeedComparison) -> str:
    """The size of a difference without its sign: ``14.5 points [12.9, 16.1]``."""
    low, high = found.ci95 if found.difference >= 0 else (-found.ci95[1], -found.ci95[0])
    return f"{number(abs(found.difference))} points {interval(low, high)}"


def ahead(found: Comparison | LabelComparison | SeedComparison, one: str, other: str) -> str:
    """Which of the two a difference without a sign favors: ``, in favor of mask``; empty if it is zero."""
    return f", in favor of {one if found.difference > 0 else other}" if found.difference else ""


def p_text(p: float) -> str:
    """``p < 0.001`` or ``p = 0.03``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def listed(names: Sequence[str], joint: str = "and") -> str:
    """``a, b and c``."""
    return f" {joint} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def layer_text(layer: str) -> str:
    """``0 to 5`` for 0+1+2+3+4+5."""
    numbers = layer.split("+")
    if len(numbers) > 2 and all(map(str.isdecimal, numbers)):
        first, last = int(numbers[0]), int(numbers[-1])
        if [*map(int, numbers)] == [*range(first, last + 1)]:
            return f"{first} to {last}"
    return layer


def distinct(values: Iterable[str]) -> list[str]:
    """Each value once, in order of first occurrence."""
    return list(dict.fromkeys(values))


def chance(score: Score) -> float:
    """The accuracy of always answering the most frequent class."""
    return max(map(sum, score.confusion)) / score.n


def uneven(score: Score) -> bool:
    """Whether the most frequent class is more than 1.5 times as frequent as in a balanced set."""
    return len(score.confusion) > 1 and chance(score) > 1.5 / len(score.confusion)


def labels_rules(found: Sequence[LabelEfficiency]) -> list[str]:
    """What the intervals of accuracy curves by number of labels cover, and which curves have a single draw."""
    names = {"encoder": "the encoder", **NETWORKS}
    once = distinct(names.get(name, name) for one in found for name in one.curves if one.once(name))
    if not once:
        return [LABELS_RULE]
    return [
        LABELS_RULE,
        f"* Measured once for each number of labels: {listed(once)}. These intervals do not cover other draws or other "
        "training seeds.",
    ]


def test_images(count: int, source: str) -> str:
    """``300 test images of folder:mine``, or ``4,000 generated test images (shapes:test:4000)``."""
    generated = source.partition(":")[0].partition(" ")[0] == "shapes"
    return f"{count:,} generated test images ({source})" if generated else f"{count:,} test images of {source}"


def half_width(n: int) -> float:
    """Half the width of the 95% interval of an accuracy of 50% on ``n`` images, the widest of all."""
    low, high = wilson_interval(n // 2, n)
    return (high - low) / 2
