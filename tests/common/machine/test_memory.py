"""Free memory against what the kernel says, and sizes in readable units."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.machine.memory import available_memory, readable_size

MEMINFO = Path("/proc/meminfo")


def of_the_machine(name: str) -> int:
    """Bytes, from the kernel's own table in KiB."""
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not MEMINFO.is_file(), reason="Linux")
@pytest.mark.parametrize("limit", [None, "max\n", "", "nonsense"])
def test_without_a_limit_the_memory_of_the_machine_is_free(tmp_path: Path, limit: str | None) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1000\n")
    near = of_the_machine("MemTotal") / 10  # other programs allocate meanwhile
    assert available_memory(tmp_path) == pytest.approx(of_the_machine("MemAvailable"), abs=near)


@pytest.mark.parametrize(("limit", "used", "free"), [(5000, 2000, 3000), (5000, 5000, 0), (5000, 6000, 0)])
def test_in_a_container_what_is_left_of_its_limit_is_free(tmp_path: Path, limit: int, used: int, free: int) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert available_memory(tmp_path) == free


def test_what_a_container_keeps_of_files_is_free_for_whoever_needs_it(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4900\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 3900\ninactive_file 2000\nactive_file 1500\nshmem 400\n")
    assert available_memory(tmp_path) == 3600


@pytest.mark.skipif(not MEMINFO.is_file(), reason="Linux")
def test_a_limit_above_the_memory_of_the_machine_adds_none(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{2**60}\n")
    (tmp_path / "memory.current").write_text("0\n")
    assert available_memory(tmp_path) < of_the_machine("MemTotal")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 KiB"),
        (1536, "1.5 KiB"),
        (147 << 20, "147 MiB"),
        ((1 << 30) - 1, "1024 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 39, "2.5 TiB"),
    ],
)
def test_sizes_are_given_in_the_unit_that_suits_them(size: int, text: str) -> None:
    assert readable_size(size) == text
