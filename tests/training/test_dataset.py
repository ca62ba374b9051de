"""Stores in training loops of one's own: whole batches, and a map-style dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_store import spoil, write_tiny_store
from torch.utils.data import DataLoader

import humandata
from humandata.errors import DamagedPictureError, HumandataError
from humandata.store import Store
from humandata.training import Augmentation, Batch, Batches, PersonDataset, prepare
from humandata.training.batches import Mix, evaluation_batches

PAGE = Path(__file__).resolve().parents[2] / "docs" / "loading.md"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return (
        write_tiny_store(folder / "tiny"),
        write_tiny_store(folder / "other", count=5, seed=4, without=("smpl/",)),
    )


@pytest.fixture(scope="module")
def store(paths: tuple[Path, Path]) -> Store:
    return humandata.open(paths[0])


def equal(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(Batch)
    )


# Batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        lambda a, b: {str(a): 3, str(b): 1},
        lambda a, b: [(a, 0.75), (humandata.open(b), 0.25)],
        lambda a, b: ((str(a), 0.3), (b, 0.1)),
    ],
)
def test_stores_and_weights_are_named_in_any_of_the_usual_ways(
    paths: tuple[Path, Path], name: Callable[..., Any]
) -> None:
    batches = Batches(name(*paths), 4, image_size=32)
    assert [len(a.store) for a in batches.mix.annotations] == [12, 5]
    assert batches.mix.sampler.counts == (9, 3)


def test_one_store_or_several_of_equal_weight_need_no_weights(paths: tuple[Path, Path]) -> None:
    for one in (paths[0], str(paths[0]), humandata.open(paths[0])):
        assert Batches(one, 4, image_size=32).mix.sampler.counts == (12,)
    assert Batches(list(paths), 4, image_size=32).mix.sampler.counts == (6, 6)


def test_numbers_that_make_no_sense_are_refused(store: Store) -> None:
    with pytest.raises(HumandataError, match="workers is 0 or more, found -1"):
        Batches(store, 4, workers=-1)
    with pytest.raises(HumandataError, match="damaged pictures is 0 to 1, found 2"):
        Batches(store, 4, damaged_rate=2)


def test_an_iteration_is_an_epoch_and_the_next_one_the_next(store: Store) -> None:
    batches = Batches(store, 4, image_size=32, seed=3)
    mix = Mix([(store, 1.0)], 4, 32, seed=3)
    assert len(batches) == 3
    for epoch in range(2):
        found = list(batches)
        assert len(found) == 3
        assert all(equal(b, mix.batch(epoch, step)) for step, b in enumerate(found))
    batches.set_epoch(7)
    assert equal(next(iter(batches)), mix.batch(7, 0))


def test_without_augmentation_the_crops_are_those_of_an_evaluation(store: Store) -> None:
    batches = Batches(store, 12, image_size=32, augmentation=None)
    (batch,) = batches
    (plain,) = evaluation_batches(store, batch.row.numpy(), image_size=32)
    assert torch.equal(batch.images, plain.images)
    assert torch.equal(batch.keypoints2d, plain.keypoints2d)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_in_the_middle_of_an_epoch(paths: tuple[Path, Path], workers: int) -> None:
    def make() -> Batches:
        return Batches(list(paths), 2, image_size=32, seed=1, workers=workers)

    whole = make()
    expected = [batch for _ in range(2) for batch in whole]
    first = make()
    for number, _ in enumerate(first):
        if number == 3:
            state = first.state_dict()
            break
    assert (state["epoch"], state["step"]) == (0, 4)
    resumed = make()
    resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
    rest = []
    for epoch in range(resumed.epoch, 2):
        resumed.set_epoch(epoch)
        rest.extend(resumed)
    assert len(rest) == 8
    assert all(equal(a, b) for a, b in zip(rest, expected[4:], strict=True))


def test_the_last_batch_of_an_epoch_is_followed_by_the_next_epoch(store: Store) -> None:
    batches = Batches(store, 6, image_size=32)
    states = [batches.state_dict() for _ in batches]
    assert [(s["epoch"], s["step"]) for s in states] == [(0, 1), (1, 0)]


def test_a_state_of_another_loader_is_refused_by_what_differs(
    paths: tuple[Path, Path], store: Store
) -> None:
    state = Batches(store, 4).state_dict()
    for other, name in (
        (Batches(store, 6), "batch_size 4"),
        (Batches(store, 4, seed=1), "seed 0"),
        (Batches(paths[1], 4, epoch_length=12), "stores"),
        (Batches(store, 4, epoch_length=12, world_size=3, rank=1), "steps_per_epoch 3"),
    ):
        with pytest.raises(HumandataError, match=f"taken with {name}"):
            other.load_state_dict(state)


def test_ranks_part_an_epoch(store: Store) -> None:
    rows = [
        row
        for rank in range(3)
        for batch in Batches(store, 2, image_size=32, rank=rank, world_size=3)
        for row in batch.row.tolist()
    ]
    assert sorted(rows) == list(range(12))


@pytest.mark.slow
def test_processes_stay_for_the_next_epoch_and_give_what_threads_give(store: Store) -> None:
    threads = Batches(store, 4, image_size=32)
    processes = Batches(store, 4, image_size=32, workers=1, processes=True)
    for left_early in (False, True, False):
        for number, (one, other) in enumerate(zip(threads, processes, strict=True)):
            assert equal(one, other)
            if left_early and number == 1:
                break


# A dataset -------------------------------------------------------------------------------------


def test_a_person_is_what_an_evaluation_batch_holds_of_it(
    paths: tuple[Path, Path], store: Store
) -> None:
    dataset = PersonDataset(list(paths), image_size=32)
    assert len(dataset) == 17
    for index, which, row in ((0, 0, 0), (11, 0, 11), (12, 1, 0), (16, 1, 4), (-1, 1, 4)):
        person = dataset[index]
        (batch,) = evaluation_batches(
            humandata.open(paths[which]), np.array([row]), image_size=32, workers=0
        )
        assert (int(person["store"]), int(person["row"])) == (which, row)
        assert torch.equal(person["image"], batch.images[0])
        for name in person.keys() - {"image", "store"}:
            assert torch.equal(person[name], getattr(batch, name)[0]), name
    with pytest.raises(IndexError):
        dataset[17]


def test_persons_without_a_box_are_not_counted(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "some", count=6)
    file = path / "instances" / "bbox_xywh" / "c" / "0" / "0"
    boxes = np.frombuffer(bytearray(file.read_bytes()), "<f4", 30).reshape(6, 5)
    boxes[[0, 3], 2:] = 0
    file.write_bytes(boxes.tobytes() + file.read_bytes()[120:])
    dataset = PersonDataset(path, image_size=32)
    assert [int(dataset[i]["row"]) for i in range(len(dataset))] == [1, 2, 4, 5]
    copy = pickle.loads(pickle.dumps(dataset))
    assert [int(copy[i]["row"]) for i in range(len(copy))] == [1, 2, 4, 5]


def test_normalised_pixels_are_those_of_a_prepared_batch(store: Store) -> None:
    (batch,) = evaluation_batches(store, np.array([3]), image_size=32)
    image = PersonDataset(store, image_size=32, normalise=True)[3]["image"]
    assert image.dtype == torch.float32
    assert torch.equal(image, prepare(batch).images[0])


def test_augmentation_changes_with_torchs_generator_and_only_with_it(store: Store) -> None:
    options = Augmentation()
    dataset = PersonDataset(store, image_size=32, augmentation=options)
    torch.manual_seed(0)
    first, second = dataset[0], dataset[0]
    assert not torch.equal(first["image"], second["image"])
    torch.manual_seed(0)
    again = dataset[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    noisy = Augmentation(flip=0, scale=0, rotation=0, rotation_probability=0, channel_noise=0.4)
    plain = PersonDataset(store, image_size=32)[0]["image"].float()
    gains = PersonDataset(store, image_size=32, augmentation=noisy)[0]["image"].float() / plain
    inner = (plain > 60) & (plain < 170)
    for channel in range(3):
        ratios = gains[channel][inner[channel]]
        assert 0.58 < ratios.min() <= ratios.max() < 1.42
        assert ratios.std() < 0.01, "one factor for a colour"


def test_a_transform_gives_what_the_dataset_gives(store: Store) -> None:
    dataset = PersonDataset(store, 32, transform=lambda person: int(person["row"]) * 10)
    assert [dataset[i] for i in range(3)] == [0, 10, 20]


def test_a_damaged_picture_raises_or_is_replaced_as_asked(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "damaged", count=6), 2)
    with pytest.raises(DamagedPictureError, match=r"002\.jpg"):
        PersonDataset(path, 32)[2]
    replaced = PersonDataset(path, 32, replace_damaged=True)[2]
    assert int(replaced["row"]) != 2
    assert replaced["image"].any()


@pytest.mark.parametrize(
    "start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
)  # fmt: skip
def test_a_dataloader_gives_the_same_whatever_starts_its_workers(
    paths: tuple[Path, Path], start: str
) -> None:
    dataset = PersonDataset(list(paths), image_size=32)
    dataset[0]  # maps are open in the parent
    alone = list(DataLoader(dataset, batch_size=5))
    workers = list(DataLoader(dataset, 5, num_workers=2, multiprocessing_context=start))
    assert len(workers) == len(alone) == 4
    for one, other in zip(alone, workers, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_forked_workers_do_not_wait_for_the_opencv_threads_of_their_parent(store: Store) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        large = np.zeros((2000, 2000, 3), np.uint8)
        cv2.warpAffine(large, np.eye(2, 3), (2000, 2000))  # OpenCV has started its threads
        dataset = PersonDataset(store, image_size=640)  # large enough to be shared out
        loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context="fork", timeout=60)
        assert len(list(loader)) == 3
        assert cv2.getNumThreads() == 4, "the parent keeps its own"
    finally:
        cv2.setNumThreads(before)


def test_a_pickled_dataset_is_a_few_kilobytes_of_paths(paths: tuple[Path, Path]) -> None:
    dataset = PersonDataset(list(paths))
    dataset[0]
    assert len(pickle.dumps(dataset)) < 5_000


# The page --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_snippets_of_the_page_run_in_ten_lines_each(tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "pw3d_test.zarr", count=9)
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 3
    with contextlib.chdir(tmp_path):
        for snippet in snippets:
            assert len(snippet.splitlines()) <= 10
            exec(compile(snippet, PAGE.name, "exec"), {})


def test_the_page_lists_the_fields_of_a_batch() -> None:
    table = PAGE.read_text().split("## What a batch holds")[1]
    listed = [
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert listed == [field.name for field in dataclasses.fields(Batch) if field.name != "has_smpl"]
    assert "has_smpl" in table
