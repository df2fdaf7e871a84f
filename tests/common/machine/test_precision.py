"""bfloat16 is chosen where the hardware is fast at it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.machine.precision import autocast, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True), (True, True)])
def test_on_a_cpu_auto_follows_its_bfloat16_units(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if amx or avx512 else torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_on_a_gpu_auto_follows_its_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", CUDA) == dtype


@pytest.mark.parametrize("device", [CPU, CUDA, torch.device("mps")], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_named_is_taken(precision: Any, device: torch.device) -> None:
    assert str(resolve_precision(precision, device)) == f"torch.{precision}"


def test_other_devices_compute_in_float32() -> None:
    assert resolve_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_of_the_dtype_asked_for(dtype: torch.dtype) -> None:
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
