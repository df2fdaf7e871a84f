"""Files of tensors: read whole, and compared with the network that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.encoders.card import finite_or_as
from common.errors import UserError, one_line
from common.files import is_utf8


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        UserError: it cannot be read.
    """
    if not is_utf8(path):
        raise UserError(f"{str(path)!a} is not UTF-8, which safetensors requires: rename the folder")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}): it is truncated or not safetensors; copy or export it again"
        ) from None


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is wrong with ``tensors`` for a network whose fresh ones are ``expected``: three problems at most, or empty.

    Each must be there, with the same shape and type, and finite.
    """
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} does not belong to this network" for name in sorted(tensors.keys() - expected.keys())]
    found = {name: _misfit(tensors[name], wanted) for name, wanted in expected.items() if name in tensors}
    problems += [f"{name} {problem}" for name, problem in found.items() if problem]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _misfit(tensor: Tensor, wanted: Tensor) -> str:
    if tensor.shape != wanted.shape:
        return f"has shape {list(tensor.shape)}, not {list(wanted.shape)}"
    if tensor.dtype != wanted.dtype:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, not {str(wanted.dtype).removeprefix('torch.')}"
    return "" if finite_or_as(tensor, wanted) else "is not finite"
