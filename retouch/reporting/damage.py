"""Damage in plain English: what an encoder learned to restore, and what was done to test images."""

from __future__ import annotations

import ast
import math
import re

from pydantic import JsonValue, TypeAdapter, ValidationError

from common.corruptions import AnyCorruption, Blur, Gaussian, Gray, Holes, Jpeg, SaltPepper
from pretrain.gradient.pretexts import AnyPretext, Colorize, Denoise, Mask, Mixed
from retouch.reporting.sentences import listed

SCALE = "black is 0 and white is 1"

_DAMAGE: TypeAdapter[AnyCorruption] = TypeAdapter(AnyCorruption)
_PRETEXTS: TypeAdapter[AnyPretext] = TypeAdapter(AnyPretext)


def damage_of(pretext: JsonValue) -> str:
    """The damage of a pretext with these settings; empty for methods without damage and settings of other versions."""
    try:
        found = _PRETEXTS.validate_python(pretext)
    except ValidationError:
        return ""
    match found:
        case Denoise():
            return damage_text(found.corruption)
        case Colorize():
            return damage_text(Gray())
        case Mask():
            return f"{100 * found.ratio:g}% of the patches hidden"
        case Mixed():
            several = "" if found.at_most == 1 else f", up to {found.at_most} per image"
            return f"{listed([damage_text(one) for one in found.members], 'or')}{several}"
        case _:
            return ""


def damage_named(name: str) -> str:
    """The damage that results call ``gaussian sigma=0.1``, in words; the name itself, if it is unknown."""
    kind, *settings = re.split(r" (?=\w+=)", name)
    try:
        values = {key: ast.literal_eval(value) for key, _, value in (one.partition("=") for one in settings)}
        return damage_text(_DAMAGE.validate_python({"kind": kind, **values}))
    except (ValueError, SyntaxError):  # of another version; pydantic's errors are ValueErrors
        return name


def damage_text(damage: AnyCorruption) -> str:
    """A corruption with its strength."""
    match damage:
        case Gaussian(sigma=None):
            low, middle, high = (math.exp(damage.log_mean + step * damage.log_std) for step in (-1, 0, 1))
            return (
                f"Gaussian noise, drawn per image (median standard deviation {middle:.2g}, and between {low:.2g} and "
                f"{high:.2g} for two thirds of the images; {SCALE})"
            )
        case Gaussian():
            return f"Gaussian noise (standard deviation {damage.sigma:g}; {SCALE})"
        case SaltPepper():
            low, high = (100 * share for share in damage.amount)
            return f"black and white pixels ({_range((low, high))}% of all)"
        case Blur():
            return f"blur (a Gaussian of {_range(damage.sigma)} px)"
        case Jpeg():
            return f"JPEG compression (quality {_range(damage.quality)} of 100)"
        case Gray():
            return "no color"
        case Holes():
            return f"holes ({100 * damage.ratio:g}% of the squares of {damage.size} px)"


def _range(found: tuple[float, float]) -> str:
    low, high = (f"{end:g}" for end in found)
    return low if low == high else f"{low} to {high}"
