from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from common.data import Loader, build_source, images, in_order, load_images, paired, reader
from common.data.images import Cache, some_readable
from common.errors import UserError
from tests.common.data.samples import picture, write_folder


@pytest.fixture
def spoiled(tmp_path: Path) -> str:
    """Ten pictures, of which 2, 3 and 9 cannot be read."""
    for number in range(10):
        picture(number).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "9.png").write_bytes(b"hello")
    return f"folder:{tmp_path}"


def test_the_result_does_not_depend_on_cache_or_workers(tmp_path: Path) -> None:
    source = build_source(f"folder:{write_folder(tmp_path)}")
    every = torch.tensor([5, 0, 3, 3])
    here = load_images(source, 8, cache="ram")
    cases: list[tuple[Cache, int]] = [("ram", 2), ("none", 0), ("none", 1)]
    for cache, workers in cases:
        other = load_images(source, 8, workers=workers, cache=cache)
        fetched = list(other.batches([every, every[:2]], workers))
        assert torch.equal(fetched[0].images, here.rows(every))
        assert torch.equal(fetched[1].images, here.rows(every[:2]))
        assert torch.equal(other.kept, here.kept)


def test_rows_are_copies() -> None:
    loaded = load_images(build_source("shapes:train:4"), 32)
    loaded.rows(torch.tensor([1])).zero_()
    assert loaded.rows(torch.tensor([1])).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_with_one_warning(
    spoiled: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_images(build_source(spoiled), 8, workers=workers, cache="ram")
    assert loaded.kept.tolist() == loaded.readable().kept.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert loaded.pixels is not None
    assert len(loaded) == len(loaded.pixels) == 7
    assert sorted(loaded.unreadable) == [2, 3, 9]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("3 of 10 images cannot be read and are left out: ")
    assert "2.png (the file is empty)" in warning


@pytest.mark.parametrize("workers", [0, 1])
def test_training_with_unreadable_images_is_the_same_with_and_without_a_cache(spoiled: str, workers: int) -> None:
    streams = []
    for cache in ("ram", "none"):
        loaded = load_images(build_source(spoiled), 8, cache=cache)
        streams.append(Loader(loaded, batch_size=4, seed=0, workers=workers).stream(3))
    for _ in range(5):
        kept, lazy = (next(stream) for stream in streams)
        assert kept.index.tolist() == lazy.index.tolist()
        assert torch.equal(kept.images, lazy.images)


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_a_run_of_unreadable_rows_makes_no_other_row_more_frequent(tmp_path: Path, cache: Cache) -> None:
    for number in range(150):
        (tmp_path / f"{number:03}.png").write_bytes(b"")
    for number in range(150, 155):
        picture(number).save(tmp_path / f"{number}.png")
    loaded = load_images(build_source(f"folder:{tmp_path}"), 8, cache=cache)
    assert len(loaded) == 5
    loader = Loader(loaded, batch_size=5, seed=0)
    for step in range(3):  # an epoch each
        assert sorted(loaded.kept[loader.rows(step)].tolist()) == [150, 151, 152, 153, 154]


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_the_order_is_that_of_a_source_without_its_unreadable_rows(spoiled: str, tmp_path: Path, cache: Cache) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    for number in (0, 1, 4, 5, 6, 7, 8):
        picture(number).save(clean / f"{number}.png")
    for where in tmp_path.glob("clean/*"):
        assert where.read_bytes() == (tmp_path / where.name).read_bytes()
    expected = load_images(build_source(f"folder:{clean}"), 8, cache="ram")
    (tmp_path / "clean").rename(tmp_path.parent / f"{tmp_path.name}-clean")  # it is below the spoiled one
    found = load_images(build_source(spoiled), 8, cache=cache)
    streams = [Loader(which, batch_size=4, seed=5).stream(2) for which in (expected, found)]
    for _ in range(4):
        ours, theirs = (next(stream) for stream in streams)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.index, theirs.index)


def test_many_unreadable_images_do_not_flood_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    picture(0).save(tmp_path / "whole.png")
    lazy = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", check=False)
    assert next(lazy.batches([torch.arange(31)])).index.tolist() == [30]
    assert len(caplog.records) == images.WARNED + 1
    assert "no others are listed" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_looked_for_once(
    spoiled: str, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retouch")
    for looks in (True, False):
        caplog.clear()
        assert load_images(build_source(spoiled), 8, cache="none", workers=workers).kept.tolist() == [
            0, 1, 4, 5, 6, 7, 8,
        ]  # fmt: skip
        assert ("looked at in" in caplog.text) == looks
        assert "3 of 10 images cannot be read and are left out" in caplog.text
    picture(2).save(tmp_path / "2.png")  # the folder is another one now
    caplog.clear()
    assert load_images(build_source(spoiled), 8, cache="none").kept.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert "looked at in" in caplog.text


def test_an_image_that_can_be_read_again_is_not_left_out_because_it_once_could_not(tmp_path: Path) -> None:
    write_folder(tmp_path)
    source = build_source(f"folder:{tmp_path}")
    path = tmp_path / "cat" / "2.png"
    whole, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(whole)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(load_images(source, 8, cache="none")) == 5
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as after a network drive has come back
    assert len(load_images(source, 8, cache="none")) == 6


def test_an_image_that_can_no_longer_be_read_stops_the_run(tmp_path: Path) -> None:
    write_folder(tmp_path)
    loaded = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none")
    (tmp_path / "cat" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png could be read before, but not any more .*resume=true"):
        list(in_order(loaded, 4))


def test_a_file_is_tried_again_after_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = build_source(f"folder:{write_folder(tmp_path)}")
    expected, failures = load_images(source, 8, cache="ram").rows(torch.arange(6)), iter([True, False] * 6)
    read = source.image

    def hiccup(index: int) -> object:
        if next(failures):
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(index)

    monkeypatch.setattr(source, "image", hiccup)
    monkeypatch.setattr(reader, "PAUSES", (0.0,))
    assert torch.equal(load_images(source, 8, cache="ram").rows(torch.arange(6)), expected)


def test_pairs_stay_pairs_where_one_image_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = []
    for name, broken in (("a", 1), ("b", 4)):
        write_folder(tmp_path / name)
        sources.append(build_source(f"folder:{tmp_path / name}"))
        Path(sources[-1].where(broken)).write_bytes(b"")
    for cache in ("ram", "none"):
        first, second = paired(*(load_images(source, 8, cache=cache) for source in sources))
        assert first.kept.tolist() == second.kept.tolist() == [0, 2, 3, 5]
        assert torch.equal(first.rows(torch.arange(4)), second.rows(torch.arange(4)))
    assert "2 pairs of " in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_leaves_the_global_generator_alone(tmp_path: Path, workers: int) -> None:
    lazy = load_images(build_source(f"folder:{write_folder(tmp_path)}"), 8, cache="none")
    before = torch.get_rng_state()
    list(lazy.batches([torch.arange(3)], workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_worker_that_is_killed_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("workers do not have the objects of this process")
    picture(0).save(tmp_path / "0.png")
    source = build_source(f"folder:{tmp_path}")
    monkeypatch.setattr(source, "image", lambda index: os.kill(os.getpid(), signal.SIGKILL))
    lazy = images.Images(source, 8, torch.arange(1))
    said = (
        r"data\.workers: a process that decodes images was killed .*: set it to less than 1, or to 0, and start again"
    )
    with pytest.raises(UserError, match=said):
        next(lazy.batches([torch.arange(1)], workers=1))


def test_workers_start_before_the_first_batch_is_asked_for_and_end_with_the_last_that_is_used(tmp_path: Path) -> None:
    lazy = load_images(build_source(f"folder:{write_folder(tmp_path)}"), 8, cache="none")
    before = set(multiprocessing.active_children())
    batches = lazy.batches((torch.arange(2) for _ in range(1000)), workers=1)
    [worker] = set(multiprocessing.active_children()) - before
    assert len(next(batches).index) == 2
    del batches
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_workers_outlive_sigterm_and_end_with_their_killed_parent() -> None:
    # big batches: the workers are left waiting for room in the pipe
    program = """if True:
        import multiprocessing, torch
        from common.data import Images, build_source
        lazy = Images(build_source("shapes:train:4096"), 32, torch.arange(4096))
        batches = lazy.batches((torch.arange(256) for _ in range(10**6)), workers=2)
        next(batches), next(batches)  # one of each worker, so that both have begun
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        next(batches)
        input()
        next(batches)
        print("more", flush=True)
        input()
    """
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            workers = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(workers) == 2
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "more\n"
        finally:
            parent.kill()
    deadline = time.monotonic() + 30
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(running, workers))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_labels_follow_the_rows_that_are_left(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    loaded = load_images(build_source(f"folder:{tmp_path}"), 8)
    assert loaded.labels().values.tolist() == [0, 0, 1, 1, 1]
    assert loaded.where(0).endswith("cat/2.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_before_they_are_known_unreadable_rows_are_skipped(
    spoiled: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    lazy = load_images(build_source(spoiled), 8, cache="none", check=False)
    (first, again) = lazy.batches([torch.tensor([1, 2, 3, 9])] * 2, workers)
    assert first.index.tolist() == [1]
    assert torch.equal(first.images, lazy.rows(torch.tensor([1])))
    assert torch.equal(first.images, again.images)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 3  # once for each, however often it is met


@pytest.mark.parametrize("workers", [0, 1])
def test_in_order_unreadable_rows_are_left_out_and_later_rows_close_the_gap(
    spoiled: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    lazy = load_images(build_source(spoiled), 8, cache="none", check=False)
    kept = load_images(build_source(spoiled), 8, cache="ram")
    caplog.clear()
    batches = [list(in_order(held, 3, workers)) for held in (kept, lazy)]
    assert [batch.index.tolist() for batch in batches[1]] == [[0, 1, 4], [5, 6, 7], [8]]
    assert [kept.kept[batch.index].tolist() for batch in batches[0]] == [[0, 1, 4], [5, 6, 7], [8]]
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours.images, theirs.images)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 3
    assert warnings[0].startswith("unreadable image, left out: ")
    assert torch.equal(lazy.readable().kept, kept.readable().kept)
    assert lazy.readable().pixels is None
    rows = torch.tensor([1, 2, 6])
    assert torch.equal(lazy.readable().rows(rows), kept.readable().rows(rows))


def test_in_order_without_any_readable_image_is_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    lazy = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", limit=2, seed=1, check=False)
    first = int(lazy.kept[0])
    assert first > 0
    with pytest.raises(UserError, match=rf"no image can be read, for example .*{first}\.png"):
        list(in_order(lazy, 4))


def test_a_set_of_which_no_sample_can_be_read_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.png").write_bytes(b"nothing")
    lazy = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", check=False)
    with pytest.raises(UserError, match="no image can be read"):
        some_readable(lazy)
    picture(0).save(tmp_path / "001.png")  # which the sample does not contain
    assert some_readable(
        load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", check=False)
    ).kept.tolist() == [1]
    picture(0).save(tmp_path / "000.png")
    first = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", check=False)
    assert some_readable(first) is first
    some = first.only(torch.tensor([0, 5]))
    assert some_readable(some) is some, "a sample of these is enough, too"


def test_a_sample_that_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(0).save(tmp_path / "0.png")
    lazy = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none", check=False)
    monkeypatch.setattr(type(lazy.source), "image", lambda *_: pytest.fail("read again"))
    assert some_readable(lazy) is lazy


def test_places_are_those_of_single_rows(tmp_path: Path) -> None:
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    some = load_images(build_source(f"folder:{tmp_path}"), 8).only(torch.tensor([4, 1, 3]))
    rows = torch.tensor([2, 0])
    assert some.places(rows) == [some.where(row) for row in rows.tolist()]
    assert some.places(rows)[0].endswith("3.png")


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_a_set_without_any_readable_image_is_refused(tmp_path: Path, cache: Cache) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no image can be read, for example .*0\.png \(not an image"):
        load_images(build_source(f"folder:{tmp_path}"), 8, cache=cache).rows(torch.tensor([0]))


def test_limit_takes_a_fixed_sample_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    source = build_source(f"folder:{tmp_path}")

    def kept(limit: int) -> list[int]:
        return load_images(source, 8, limit=limit, cache="none", check=False).kept.tolist()

    small, large = kept(10), kept(20)
    assert len(small) == 10
    assert set(small) < set(large)
    assert small == sorted(small) != list(range(10))
    assert kept(10) == small
    assert len(kept(99)) == 40


def test_auto_keeps_what_takes_a_quarter_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "retouch")
    source, need = build_source("shapes:train:8"), 8 * 3 * 32 * 32
    monkeypatch.setattr(images, "available_memory", lambda: 4 * need)
    assert load_images(source, 32).pixels is not None
    assert "8 images decoded in" in caplog.text
    monkeypatch.setattr(images, "available_memory", lambda: 4 * need - 4)
    assert load_images(source, 32).pixels is None
    assert "8 images, decoded when needed" in caplog.text
    assert load_images(source, 32, cache="ram").pixels is not None
    monkeypatch.setattr(images, "available_memory", lambda: 4 * need)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two processes on this machine share the memory
    assert load_images(source, 32).pixels is None
