"""bfloat16 is chosen where the hardware is fast at it, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from common.machine.precision import Precision, autocast, resolve_precision


@pytest.mark.parametrize(
    ("device", "capability", "amx", "avx512", "expected"),
    [
        ("cuda", (7, 5), True, True, torch.float32),
        ("cuda", (8, 0), False, False, torch.bfloat16),
        ("cuda", (9, 0), False, False, torch.bfloat16),
        ("cpu", (9, 0), False, False, torch.float32),
        ("cpu", (7, 0), True, False, torch.bfloat16),
        ("cpu", (7, 0), False, True, torch.bfloat16),
        ("mps", (9, 0), True, True, torch.float32),
    ],
)
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_precision_on_each_kind_of_machine(
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    device: str,
    capability: tuple[int, int],
    amx: bool,
    avx512: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    assert resolve_precision(precision, torch.device(device)) == named.get(precision, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_of_the_dtype_asked_for(dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
