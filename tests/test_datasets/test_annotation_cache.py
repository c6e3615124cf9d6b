"""The cache of parsed annotations: when it is used, damaged, full, shared, interrupted."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from logs import logged
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import MMLogger
from scripts import load_script

from mmdet_droploss.datasets import (
    FastLVISV05Dataset,
    FastLVISV1Dataset,
    annotation_cache,
    fast_annotations,
)

FILES = (
    "records.bin", "record_ends.npy", "labels.npy", "label_ends.npy", "category_ids.npy",
    "facts.json", "entry.json",
)  # fmt: skip
PREFIX = dict(img="images/")
SECONDS = 120  # after which a hanging process fails the test

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def parses(monkeypatch):
    """The annotation files that were parsed, by the real function."""
    names = []
    read = fast_annotations.read_annotation_file

    def note(path, name, **options):
        names.append(name)
        return read(path, name, **options)

    monkeypatch.setattr(fast_annotations, "read_annotation_file", note)
    return names


def content(num_images=6, objects=3):
    images = [
        {
            "id": 100 - index,
            "height": 40 + index,
            "width": 50,
            "file_name": f"{index}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{index}.jpg",
        }
        for index in range(num_images)
    ]
    annotations = [
        {
            "id": objects * index + number,
            "image_id": image["id"],
            "category_id": 9 - number,
            "bbox": [number, 2.5, 10, 20],
            "area": 200,
            "segmentation": [[1, 2, 3.25, 4, 5, 6]],
        }
        for index, image in enumerate(images[1:])
        for number in range(objects)
    ]
    categories = [{"id": category_id, "name": str(category_id)} for category_id in (7, 9, 8)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def ann_file(tmp_path):
    return write(tmp_path / "lvis_train.json")


def write(path, changed=None):
    path.write_text(json.dumps(content() if changed is None else changed))
    return str(path)


def load(ann_file, cls=FastLVISV1Dataset, **options):
    return cls(ann_file, **{"data_prefix": PREFIX, **options})


def items(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def expected_items(ann_file, **options):
    """Without the cache; test_lvis_datasets.py compares them with mmdet's."""
    return items(load(ann_file, cache=False, **options))


def arrays(dataset):
    return [dataset.data_bytes, dataset.data_address, *dataset.labels_by_image()]


def is_mapped(dataset):
    return all(isinstance(array, np.memmap) for array in arrays(dataset))


def entries(cache):
    return sorted(folder for folder in cache.iterdir() if folder.is_dir())


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def only_entry(cache):
    (entry,) = entries(cache)
    return entry


# ---------------------------------------------------------------- hits and misses


def test_the_second_start_parses_nothing_and_maps(ann_file, cache, parses):
    expected = expected_items(ann_file)
    first = load(ann_file)
    assert len(parses) == 2
    with logged() as log:
        second = load(ann_file)
    assert len(parses) == 2
    assert log.getvalue() == ""
    for dataset in (first, second):
        assert is_mapped(dataset), "also the start that made it shares memory with the next ones"
        assert items(dataset) == expected
        assert dataset.cat_ids == [7, 9, 8]
    assert set(snapshot(only_entry(cache))) == set(FILES)


def test_nothing_can_be_written_through_the_map(ann_file, cache):
    dataset = load(ann_file)
    before = snapshot(only_entry(cache))
    for array in arrays(dataset):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert snapshot(only_entry(cache)) == before


def test_without_cache_nothing_is_stored(ann_file, cache, parses):
    for _ in range(2):
        assert not any(
            isinstance(array, np.memmap) for array in arrays(load(ann_file, cache=False))
        )
    assert len(parses) == 2
    assert not cache.exists()


@pytest.mark.parametrize(
    "options", [dict(serialize_data=False), dict(return_classes=True)], ids=str
)
def test_items_that_are_objects_are_not_stored(ann_file, cache, options):
    load(ann_file, **options)
    assert not cache.exists()


def test_a_changed_annotation_file_is_parsed_again(tmp_path, ann_file, cache, parses):
    """Also where neither its size nor its time has changed."""
    load(ann_file)
    times = os.stat(ann_file)
    text = Path(ann_file).read_text()
    Path(ann_file).write_text(text.replace("2.5, 10", "2.5, 11"))
    os.utime(ann_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(ann_file).st_size == len(text)
    assert load(ann_file).get_data_info(1)["instances"][0]["bbox"] == [0, 2.5, 11, 22.5]
    assert len(parses) == 2 and len(entries(cache)) == 2
    Path(ann_file).write_text(text)  # and back
    assert load(ann_file).get_data_info(1)["instances"][0]["bbox"] == [0, 2.5, 10, 22.5]
    assert len(parses) == 2


class Subclass(FastLVISV1Dataset):
    """A user's own."""


@pytest.mark.parametrize(
    "options",
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(filter_cfg=dict(min_size=42)),
        dict(filter_cfg={}),
        dict(data_prefix=dict(img="elsewhere/")),
        dict(data_prefix=dict(img="images/", seg="maps/")),
        dict(data_root="/data"),
        dict(test_mode=True),
        dict(indices=3),
        dict(indices=-3),
        dict(indices=[3]),
        dict(seg_map_suffix=".gif"),
        dict(cls=FastLVISV05Dataset),
        dict(cls=Subclass),
    ],
    ids=str,
)
def test_other_options_have_an_entry_of_their_own(ann_file, cache, parses, options):
    for _ in range(2):
        assert items(load(ann_file)) == expected_items(ann_file)
        assert items(load(ann_file, **options)) == expected_items(ann_file, **options)
    assert len(entries(cache)) == 2
    assert len(parses) - 4 == 2, "without the four times without cache"


@pytest.mark.parametrize(
    "options",
    [
        dict(pipeline=[dict(type="LoadImageFromFile")]),
        dict(metainfo=dict(classes=("a", "b", "c"))),
        dict(lazy_init=True),
        dict(max_refetch=3),
        dict(data_root="/data", data_prefix=dict(img="/images")),
    ],
    ids=str,
)
def test_options_that_do_not_decide_the_items_share_an_entry(ann_file, cache, parses, options):
    first = dict(data_prefix=dict(img="/images")) if "data_root" in options else {}
    load(ann_file, **first)
    assert len(load(ann_file, **options)) == 6
    assert len(parses) == 1


def test_the_working_directory_does_not_matter(tmp_path, ann_file, monkeypatch, parses):
    load(ann_file)
    monkeypatch.chdir(tmp_path)
    load("lvis_train.json")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    load("../lvis_train.json")
    assert len(parses) == 1


def test_the_same_content_at_another_path_gives_the_same_items(tmp_path, ann_file, cache):
    (tmp_path / "copy").mkdir()
    other = shutil.copy(ann_file, tmp_path / "copy" / "other.json")
    assert items(load(ann_file)) == items(load(other))
    assert [entry.key["ann_file"] for entry in annotation_cache.list_entries()] in (
        [ann_file, str(other)],
        [str(other), ann_file],
    )


def test_another_format_has_its_own_entry(ann_file, monkeypatch, cache):
    load(ann_file)
    monkeypatch.setattr(annotation_cache, "FORMAT", annotation_cache.FORMAT + 1)
    load(ann_file)
    assert len(entries(cache)) == 2


class Downloads(LocalBackend):
    """Hands out temporary copies, as mmengine's HTTPBackend does."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @contextlib.contextmanager
    def get_local_path(self, filepath):
        number = len(list(self.folder.glob("download*")))
        yield shutil.copy(
            self.folder / filepath.rsplit("/", 1)[1], self.folder / f"download{number}"
        )


register_backend("downloads", Downloads, force=True, prefixes="downloads")


def test_a_remote_file_is_known_by_its_address(tmp_path, ann_file, cache, parses):
    options = dict(backend_args=dict(backend="downloads", folder=str(tmp_path)))
    for _ in range(2):
        dataset = load("downloads://bucket/lvis_train.json", **options)
        assert items(dataset) == expected_items(ann_file)
    assert parses.count("downloads://bucket/lvis_train.json") == 1
    (entry,) = annotation_cache.list_entries()
    assert entry.key["ann_file"] == "downloads://bucket/lvis_train.json"


def test_the_cache_is_where_the_variable_says_or_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(tmp_path / "mine"))
    assert annotation_cache.cache_root() == tmp_path / "mine"
    for empty in (True, False):
        if empty:
            monkeypatch.setenv("MMDET_DROPLOSS_CACHE", "")
        else:
            monkeypatch.delenv("MMDET_DROPLOSS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
        assert annotation_cache.cache_root() == tmp_path / "users" / "mmdet_droploss"


@pytest.mark.parametrize("num_images, objects", [(0, 0), (3, 0), (1, 1)])
def test_small_and_empty_data_sets_are_stored_too(tmp_path, parses, num_images, objects):
    path = write(tmp_path / "small.json", content(num_images, objects))
    for _ in range(2):
        dataset = load(path, test_mode=True)
        assert len(dataset) == num_images
        assert items(dataset) == expected_items(path, test_mode=True)
    assert len(parses) - 2 == 1


# ---------------------------------------------------------------- damage


def truncate(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def flip(path, part, bit=0):
    """Another bit, in the same size."""
    data = bytearray(path.read_bytes())
    data[int(part * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def append(path, part):
    path.write_bytes(path.read_bytes() + b"x" * (1 + int(9 * part)))


def delete(path, part):
    path.unlink()


def replace_by_folder(path, part):
    path.unlink()
    path.mkdir()


def assert_rebuilt(ann_file, cache, parses, whole):
    """A warning, the right items at once, and the entry as it was."""
    before = len(parses)
    with logged() as log:
        dataset = load(ann_file)
    assert "is damaged; it is made anew" in log.getvalue()
    assert str(only_entry(cache)) in log.getvalue()
    assert len(parses) == before + 1
    assert is_mapped(dataset)
    assert snapshot(only_entry(cache)) == whole
    with logged() as log:
        assert items(load(ann_file)) == items(dataset) == expected_items(ann_file)
    assert log.getvalue() == ""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip, append, delete, replace_by_folder])
def test_a_damaged_file_is_noticed_and_made_anew(ann_file, cache, parses, name, damage):
    load(ann_file)
    whole = snapshot(only_entry(cache))
    for part in (0, 0.3, 0.8, 0.99) if damage in (truncate, flip) else (0,):
        damage(only_entry(cache) / name, part)
        assert_rebuilt(ann_file, cache, parses, whole)


def test_every_bit_of_the_index_matters(ann_file, cache, parses):
    load(ann_file)
    index = only_entry(cache) / "entry.json"
    text, key = index.read_bytes(), json.loads(index.read_bytes())["key"]
    for place in range(0, len(text), 7):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 8
        index.write_bytes(changed)
        assert annotation_cache._open(only_entry(cache), key) is None
        assert annotation_cache.list_entries()[0].key in (None, key)
    index.write_bytes(text)
    assert annotation_cache._open(only_entry(cache), key) is not None


@pytest.mark.parametrize(
    "index",
    ["", "null", "3", "[]", "{}", '{"key": {}}', '{"files": {}}', '{"key": 3, "files": 4}', "\0"],
)
def test_an_index_that_is_something_else(ann_file, cache, parses, index):
    load(ann_file)
    whole = snapshot(only_entry(cache))
    (only_entry(cache) / "entry.json").write_text(index)
    assert_rebuilt(ann_file, cache, parses, whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(files=list(index["files"])),
        lambda index: index.update(files={**index["files"], "../../lvis_train.json": "0"}),
        lambda index: index["files"].pop("labels.npy"),
        lambda index: index["files"].update({"labels.npy": 3}),
        lambda index: index.update(key=None),
        lambda index: index["key"].update(content="0"),
        lambda index: index["key"].pop("dataset"),
    ],
)
def test_an_index_of_the_wrong_shape(ann_file, cache, parses, change):
    load(ann_file)
    whole = snapshot(only_entry(cache))
    index = json.loads(whole["entry.json"])
    change(index)
    (only_entry(cache) / "entry.json").write_text(json.dumps(index))
    assert_rebuilt(ann_file, cache, parses, whole)


def test_an_entry_in_the_place_of_another_is_noticed(tmp_path, ann_file, cache, parses):
    """As after a backup that was restored into the wrong folder."""
    load(ann_file)
    mine = only_entry(cache)
    whole = snapshot(mine)
    load(ann_file, indices=2)
    (other,) = set(entries(cache)) - {mine}
    shutil.rmtree(mine)
    other.rename(mine)
    assert_rebuilt(ann_file, cache, parses, whole)


def test_a_deleted_entry_is_made_anew_without_a_word(ann_file, cache, parses):
    load(ann_file)
    shutil.rmtree(cache)
    with logged() as log:
        assert items(load(ann_file)) == expected_items(ann_file)
    assert log.getvalue() == ""
    assert len(only_entry(cache).name) == 32


def test_a_data_set_outlives_its_entry(ann_file, cache):
    """A running training is not disturbed by a cleared cache."""
    dataset = load(ann_file)
    shutil.rmtree(cache)
    assert items(dataset) == expected_items(ann_file)


# ---------------------------------------------------------------- what cannot be written


def assert_works_from_memory(ann_file, reason):
    with logged() as log:
        dataset = load(ann_file)
    assert "cannot be written" in log.getvalue() and reason in log.getvalue()
    assert "MMDET_DROPLOSS_CACHE names another folder" in log.getvalue()
    assert not any(isinstance(array, np.memmap) for array in arrays(dataset))
    assert items(dataset) == expected_items(ann_file)


@pytest.mark.parametrize("place", ["file/below", "file"])
def test_a_cache_folder_that_cannot_be_made(tmp_path, ann_file, monkeypatch, place):
    """Root may write everywhere; but not below a regular file."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(tmp_path / place))
    assert_works_from_memory(ann_file, str(tmp_path / place))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_without_permission(ann_file, cache):
    cache.mkdir(mode=0o500)
    assert_works_from_memory(ann_file, "Permission denied")


def test_a_file_in_the_place_of_an_entry(ann_file, cache):
    load(ann_file)
    entry = only_entry(cache)
    shutil.rmtree(entry)
    entry.write_text("mine")
    assert_works_from_memory(ann_file, entry.name)
    assert entry.read_text() == "mine"


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.FileIO):
    """Takes some bytes, as a nearly full disk does."""

    def write(self, data):
        return super().write(data[:100]) if self.tell() < 300 else full()


@pytest.mark.parametrize("stage", ["records", "arrays", "index", "rename", "lock"])
def test_a_full_disk_leaves_nothing_half_written(ann_file, cache, monkeypatch, stage):
    if stage == "records":
        opened = io.open
        monkeypatch.setattr(
            annotation_cache,
            "open",
            lambda path, mode, **kwargs: (
                FullFile(path, mode) if mode == "wb" else opened(path, mode, **kwargs)
            ),
            raising=False,
        )
    elif stage == "arrays":
        monkeypatch.setattr(annotation_cache.np, "save", full)
    elif stage == "index":
        monkeypatch.setattr(Path, "write_text", full)
    elif stage == "rename":
        monkeypatch.setattr(annotation_cache.os, "replace", full)
    else:
        monkeypatch.setattr(annotation_cache.filelock.FileLock, "acquire", full)
    assert_works_from_memory(ann_file, "No space left on device")
    assert entries(cache) == []
    monkeypatch.undo()
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(cache))
    with logged() as log:
        assert is_mapped(load(ann_file)), "once there is space again"
    assert log.getvalue() == ""


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks(ann_file, monkeypatch):
    """Lustre without the flock option, for example."""

    def flock(*_args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert items(load(ann_file)) == expected_items(ann_file)


def test_a_file_system_without_locks_with_an_older_filelock(ann_file, monkeypatch):
    """It says so by an error that is no OSError."""

    def acquire(*_args, **_kwargs):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(annotation_cache.filelock.FileLock, "acquire", acquire)
    assert_works_from_memory(ann_file, "does not appear to support flock")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_parse_that_fails_leaves_nothing_behind(tmp_path, cache, monkeypatch, error):
    changed = content()
    if error is not KeyboardInterrupt:
        del changed["annotations"][-1]["bbox"]
    path = write(tmp_path / "broken.json", changed)
    if error is KeyboardInterrupt:
        monkeypatch.setattr(FastLVISV1Dataset, "_data_infos", interrupt)
    for _ in range(2):
        with logged() as log, pytest.raises(error):
            load(path)
        assert entries(cache) == []
        assert "cannot be written" not in log.getvalue()
    monkeypatch.undo()
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(cache))
    write(tmp_path / "broken.json", content())  # now mended
    assert len(load(path)) == 6


def interrupt(self, *args):
    raise KeyboardInterrupt


def test_a_broken_file_does_not_disturb_the_entry_of_the_good_one(ann_file, cache, parses):
    load(ann_file)
    text = Path(ann_file).read_text()
    Path(ann_file).write_text(text[:-9])
    with pytest.raises(ValueError, match="perhaps truncated"):
        load(ann_file)
    Path(ann_file).write_text(text)
    load(ann_file)
    assert len(parses) == 2


# ---------------------------------------------------------------- several processes

fork = multiprocessing.get_context("fork")  # starting Python anew would take seconds for each


def start(function, *arguments):
    process = fork.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Noted(FastLVISV1Dataset):
    """Notes each parse in a file."""

    def _read(self, path):
        with open(os.environ["PARSES"], "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)  # so that the others come meanwhile
        return super()._read(path)


def load_and_report(ann_file, barrier, report):
    barrier.wait(SECONDS)
    dataset = load(ann_file, cls=Noted)
    Path(report).write_text(json.dumps([is_mapped(dataset), items(dataset)]))


@pytest.mark.parametrize("damaged", [False, True])
def test_of_processes_that_start_at_once_one_parses(
    tmp_path, ann_file, cache, monkeypatch, damaged
):
    log = tmp_path / "parses.txt"
    monkeypatch.setenv("PARSES", str(log))
    if damaged:
        load(ann_file, cls=Noted)
        flip(only_entry(cache) / "records.bin", 0.5)
        log.unlink()
    barrier = fork.Barrier(4)
    processes = [
        start(load_and_report, ann_file, barrier, tmp_path / f"{number}.txt") for number in range(4)
    ]
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0
    assert len(log.read_text().split()) == 1
    expected = [True, expected_items(ann_file)]
    for number in range(4):
        assert json.loads((tmp_path / f"{number}.txt").read_text()) == expected
    assert set(snapshot(only_entry(cache))) == set(FILES)


def kill_oneself(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(FastLVISV1Dataset):
    """Its process dies in the middle of the images, if so told."""

    def _data_infos(self, *args):
        for data_info in super()._data_infos(*args):
            if os.environ.get("KILLED") == "parsing" and data_info["img_id"] == 97:
                kill_oneself()
            yield data_info


def load_and_die(ann_file, stage):
    os.environ["KILLED"] = stage
    if stage == "writing":
        annotation_cache.np.save = kill_oneself
    elif stage == "indexing":
        Path.write_text = kill_oneself
    elif stage == "renaming":
        annotation_cache.os.replace = kill_oneself
    load(ann_file, cls=Killed)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("stage", ["parsing", "writing", "indexing", "renaming"])
def test_the_start_after_a_killed_one_works(ann_file, cache, stage, damaged):
    if damaged:
        load(ann_file, cls=Killed)
        flip(only_entry(cache) / "labels.npy", 0.5)
    process = start(load_and_die, ann_file, stage)
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    left = [folder for folder in entries(cache) if ".tmp-" in folder.name]
    assert len(left) == 1 and "records.bin" in snapshot(left[0])
    dataset = load(ann_file, cls=Killed)
    assert is_mapped(dataset)
    assert items(dataset) == expected_items(ann_file, cls=Killed)
    assert set(snapshot(only_entry(cache))) == set(FILES), "what the killed one left is gone"


class Halted(FastLVISV1Dataset):
    """The first process that parses never comes to an end."""

    def _read(self, path):
        flag = Path(os.environ["HALTED"])
        if not flag.exists():
            flag.touch()
            signal.pause()
        return super()._read(path)


def load_and_note(ann_file, report):
    MMLogger.get_current_instance().addHandler(logging.FileHandler(f"{report}.log"))
    Path(report).write_text(json.dumps(items(load(ann_file, cls=Halted))))


def test_who_waits_for_a_killed_process_takes_its_place(tmp_path, ann_file, monkeypatch):
    monkeypatch.setenv("HALTED", str(tmp_path / "halted"))
    first = start(load_and_note, ann_file, tmp_path / "first.txt")
    wait_for((tmp_path / "halted").exists)
    second = start(load_and_note, ann_file, tmp_path / "second.txt")
    log = tmp_path / "second.txt.log"
    wait_for(lambda: log.exists() and "waiting for another process" in log.read_text())
    assert second.is_alive()
    os.kill(first.pid, signal.SIGKILL)
    first.join(SECONDS)
    second.join(SECONDS)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0)
    got = json.loads((tmp_path / "second.txt").read_text())
    assert got == expected_items(ann_file, cls=Halted)


def test_other_files_do_not_wait(tmp_path, ann_file, monkeypatch):
    monkeypatch.setenv("HALTED", str(tmp_path / "halted"))
    process = start(load_and_note, ann_file, tmp_path / "first.txt")
    wait_for((tmp_path / "halted").exists)
    with logged() as log:
        assert len(load(ann_file, cls=Halted, indices=3)) == 3
    assert log.getvalue() == ""
    os.kill(process.pid, signal.SIGKILL)
    process.join(SECONDS)


# ---------------------------------------------------------------- the tool


@pytest.fixture
def tool(capsys):
    """Runs the script in this process."""
    module = load_script("tools/misc/annotation_cache.py")
    capsys.readouterr()

    def main(*arguments: str) -> list[str]:
        assert module.main(arguments) == 0
        return capsys.readouterr().out.splitlines()

    return main


@pytest.fixture
def two_entries(tmp_path, cache):
    train, val = write(tmp_path / "lvis_train.json"), write(tmp_path / "lvis_val.json")
    load(train)
    load(val, cls=FastLVISV05Dataset)
    return {"FastLVISV1Dataset": train, "FastLVISV05Dataset": val}


def test_list_tells_of_each_entry(two_entries, cache, tool):
    *lines, total = tool("list")
    assert len(lines) == 2
    sizes = {folder.name[:8]: sum(map(len, snapshot(folder).values())) for folder in entries(cache)}
    for line in lines:
        number, unit, name, kind, path = line.split()
        assert two_entries[kind] == path
        assert unit == "kB" and float(number) == pytest.approx(sizes[name] / 1000, rel=0.01)
    assert total.startswith("2 entries, ") and total.endswith(f"in {cache}")
    assert len(entries(cache)) == 2


def test_an_entry_that_goes_meanwhile_is_not_listed(two_entries, tool, monkeypatch):
    is_ours = annotation_cache._is_ours

    def then_gone(folder):
        found = is_ours(folder)
        if found and len(entries(folder.parent)) == 2:
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(annotation_cache, "_is_ours", then_gone)
    assert tool("list")[-1].startswith("1 entries")


def test_list_with_a_pattern(two_entries, tool):
    line, total = tool("list", "_val.")
    assert two_entries["FastLVISV05Dataset"] in line
    assert total.startswith("1 entries")


@pytest.mark.parametrize("action", ["list", "clear"])
def test_an_empty_cache(cache, tool, action):
    (total,) = tool(action)
    assert total.startswith("0 entries, 0 B, ")
    assert not cache.exists()


def test_clear_removes_all(two_entries, cache, tool):
    *lines, total = tool("clear")
    assert len(lines) == 2
    assert total.startswith("2 entries, ") and total.endswith(f"removed from {cache}")
    assert list(cache.iterdir()) == []
    assert len(load(two_entries["FastLVISV1Dataset"])) == 6


def test_clear_with_a_pattern_removes_those_of_such_files(two_entries, cache, tool, parses):
    line, _ = tool("clear", "lvis_train")
    assert two_entries["FastLVISV1Dataset"] in line
    assert len(entries(cache)) == 1
    load(two_entries["FastLVISV05Dataset"], cls=FastLVISV05Dataset)
    assert parses == []
    assert len(tool("clear", "no such file")) == 1
    assert len(entries(cache)) == 1


def test_clear_leaves_what_a_data_set_has_mapped(two_entries, tool):
    dataset = load(two_entries["FastLVISV1Dataset"])
    tool("clear")
    assert items(dataset) == expected_items(two_entries["FastLVISV1Dataset"])


@pytest.mark.parametrize("name", FILES)
def test_damaged_entries_are_listed_and_cleared(two_entries, cache, tool, name):
    for folder in entries(cache):
        truncate(folder / name, 0.5)
    *lines, _ = tool("list")
    assert len(lines) == 2
    assert all(("incomplete or damaged" in line) is (name == "entry.json") for line in lines)
    tool("clear")
    assert entries(cache) == []


def test_an_index_of_the_wrong_shape_does_not_stop_the_tool(two_entries, cache, tool):
    for folder, key in zip(entries(cache), [{}, {"dataset": 3, "ann_file": 4}], strict=True):
        index = json.loads((folder / "entry.json").read_text())
        (folder / "entry.json").write_text(json.dumps({**index, "key": key}))
    assert sum("incomplete or damaged" in line for line in tool("list")) == 2
    tool("clear")
    assert entries(cache) == []


def test_what_a_killed_process_left_is_listed_and_cleared(ann_file, cache, tool):
    start(load_and_die, ann_file, "writing").join(SECONDS)
    line, _ = tool("list")
    assert "incomplete or damaged" in line
    assert len(tool("clear", "lvis_train")) == 1, "it is not known which file it is of"
    tool("clear")
    assert entries(cache) == []


def foreign_folders(cache, entry):
    """What somebody else may have in the same folder, more or less like an entry."""
    similar = cache / ("0123456789abcdef" * 2)  # such names others give as well
    return {
        cache / "thesis": {"chapter1.tex": b"1"},
        cache / "project": {"entry.json": b"{}", "records.bin": b"1", "model.pth": b"2"},
        cache / f"{entry.name}-backup": snapshot(entry),
        cache / entry.name.upper(): snapshot(entry),
        cache / f"old.{entry.name}": snapshot(entry),
        similar: {"image.png": b"1"},
    }


@pytest.mark.parametrize("arguments", [["clear"], ["clear", ""], ["clear", "lvis"]])
def test_clear_never_deletes_what_is_not_the_caches(tmp_path, two_entries, cache, tool, arguments):
    entry = entries(cache)[0]
    folders = foreign_folders(cache, entry)
    folders = {folder: files for folder, files in folders.items() if not folder.exists()}
    for folder, files in folders.items():
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    outside = tmp_path / "outside"
    shutil.copytree(entry, outside)
    (cache / "notes.txt").write_text("mine")
    (cache / "link").symlink_to(outside)
    assert tool(*arguments)[-1].startswith("2 entries")
    for folder, files in folders.items():
        assert snapshot(folder) == files
    assert (cache / "notes.txt").read_text() == "mine"
    assert set(snapshot(outside)) == set(FILES)
    assert len(entries(cache)) == len(folders) + 1


def test_help_teaches(tool, capsys):
    with pytest.raises(SystemExit) as caught:
        tool("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("MMDET_DROPLOSS_CACHE", "list", "clear", "examples:"):
        assert word in text


@pytest.mark.parametrize("arguments", [[], ["delete"], ["list", "a", "b"]])
def test_other_arguments_are_refused(two_entries, cache, tool, arguments):
    with pytest.raises(SystemExit) as caught:
        tool(*arguments)
    assert caught.value.code == 2
    assert len(entries(cache)) == 2


# ---------------------------------------------------------------- copies and subsets


def test_subsets_and_copies_do_not_change_the_entry(ann_file, cache):
    dataset = load(ann_file)
    before = snapshot(only_entry(cache))
    subset = dataset.get_subset([2, 0])
    subset.data_bytes[:] = 0
    duplicate = copy.deepcopy(dataset)
    duplicate.get_subset_(2)
    assert snapshot(only_entry(cache)) == before
    assert items(dataset) == expected_items(ann_file)
