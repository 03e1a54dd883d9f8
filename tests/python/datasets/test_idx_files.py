"""Files of MNIST and CIFAR-10, written here byte by byte."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from koopflow import datasets
from koopflow.exceptions import ArgumentError, DatasetError, DtypeError

from .image_bytes import LEVELS, NUMBERS, RECORDS, assert_images, idx_bytes, scaled

# --- IDX ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    levels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)),
    packed=st.booleans(),
    data=st.data(),
)
def test_idx_gives_back_every_byte(tmp_path, levels, packed, data):
    numbers = data.draw(hnp.arrays(np.uint8, len(levels)))
    for name, array in (("images", levels), ("labels", numbers)):
        content = idx_bytes(array)
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    images, labels = datasets.idx(tmp_path / "images", tmp_path / "labels")
    assert_images(images, scaled(levels)[:, None])
    np.testing.assert_array_equal(datasets.to_uint8(images)[..., 0], levels)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, numbers)
    assert datasets.idx(tmp_path / "images")[1] is None


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", DatasetError, "0x00000803, got 0 bytes"),
        (b"\0\0\x08", DatasetError, "got 3 bytes"),
        (idx_bytes(NUMBERS), DatasetError, "0x00000803, got 0x00000801"),
        (b"\x89PNG" + bytes(40), DatasetError, "got 0x89504e47"),
        (idx_bytes(LEVELS.astype(">f4"), 13), DtypeError, "unsigned bytes.*got float32"),
        (idx_bytes(LEVELS)[:12], DatasetError, "a header of 16 bytes, got 12"),
        (
            idx_bytes(LEVELS)[:-1],
            DatasetError,
            r"60 bytes for shape \(5, 4, 3\), got 59: the file is cut off",
        ),
        (idx_bytes(LEVELS) + b"\0", DatasetError, "60 bytes .* got 61: the file goes on"),
        (idx_bytes(LEVELS[:0]), DatasetError, r"at least one image or label, got the shape \(0, 4, 3\)"),
        # A header that asks for 2^96 bytes must not get them.
        (struct.pack(">I3I", 0x803, *[2**32 - 1] * 3), DatasetError, "got 0: the file is cut off"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_says_what_is_wrong_with_a_file(tmp_path, content, kind, message, packed):
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(kind, match=message) as caught:
        datasets.idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-9], lambda c: c[:30], lambda c: c[:-6] + b"\0" * 6, lambda c: c[:12] + b"\xff" * 9],
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(LEVELS))))
    with pytest.raises(DatasetError, match=r"images.gz: expected a whole gzip file, got a damaged one"):
        datasets.idx(path)


def test_idx_files_have_to_go_together(tmp_path):
    (tmp_path / "images").write_bytes(idx_bytes(LEVELS))
    (tmp_path / "labels").write_bytes(idx_bytes(NUMBERS[:4]))
    with pytest.raises(
        DatasetError, match=r"labels: expected 5 labels, one for each image of .*images, got 4"
    ):
        datasets.idx(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(DatasetError, match="0x00000801, got 0x00000803"):
        datasets.idx(tmp_path / "images", tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        datasets.idx(tmp_path / "images", tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="expected an IDX file, got a folder"):
        datasets.idx(tmp_path)


READERS = {"MNIST": datasets.mnist, "FashionMNIST": datasets.fashion_mnist}


@pytest.mark.parametrize("root", READERS)
@pytest.mark.parametrize(
    ("nested", "joint", "packed"),
    [(False, "-", False), (False, "-", True), (False, ".", False), (True, "-", True)],
)
def test_mnist_in_all_the_ways_it_is_stored(tmp_path, root, nested, joint, packed):
    home = tmp_path / root / "raw" if nested else tmp_path
    home.mkdir(parents=True, exist_ok=True)
    for number, prefix in enumerate(("train", "t10k")):
        for name, array in (("images", LEVELS[number:]), ("labels", NUMBERS[number:])):
            file = home / f"{prefix}-{name}{joint}idx{array.ndim}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    for number, split in enumerate(("train", "test")):
        images, labels = READERS[root](tmp_path, split=split)
        assert_images(images, scaled(LEVELS[number:])[:, None])
        np.testing.assert_array_equal(labels, NUMBERS[number:])
        if not nested:
            same, numbers = datasets.images(tmp_path, split=split)
            np.testing.assert_array_equal(same, images)
            np.testing.assert_array_equal(numbers, labels)


def test_mnist_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte"):
        datasets.mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(LEVELS))
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte"):
        datasets.mnist(tmp_path, split="test")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.fashion_mnist(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="folder: expected a folder, got the file"):
        datasets.mnist(tmp_path / "t10k-images-idx3-ubyte")
    for read in (datasets.mnist, datasets.images):
        with pytest.raises(ArgumentError, match="split: expected 'train' or 'test', got 'valid'"):
            read(tmp_path, split="valid")


# --- CIFAR-10 -------------------------------------------------------------------------------------


def write_cifar(folder):
    folder.mkdir(exist_ok=True)
    for number in range(5):
        (folder / f"data_batch_{number + 1}.bin").write_bytes(RECORDS[2 * number : 2 * number + 2].tobytes())
    (folder / "test_batch.bin").write_bytes(RECORDS[10:].tobytes())


@pytest.mark.parametrize("nested", [False, True])
def test_cifar_records_are_a_label_and_three_planes(tmp_path, nested):
    write_cifar(tmp_path / "cifar-10-batches-bin" if nested else tmp_path)
    for split, part in (("train", RECORDS[:10]), ("test", RECORDS[10:])):
        for read in (datasets.cifar10, datasets.images):
            images, labels = read(tmp_path, split=split)
            assert images.shape == (len(part), 3, 32, 32)
            for channel in range(3):
                plane = part[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(-1, 32, 32)
                assert_images(np.ascontiguousarray(images[:, channel]), scaled(plane))
            assert labels.dtype == np.int64
            np.testing.assert_array_equal(labels, part[:, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_3.bin: expected records of 3073 bytes, got an empty file"),
        (RECORDS[:2].tobytes()[:-1], "records of 3073 bytes, got 1 of them and 3072 bytes more"),
        (RECORDS[:1].tobytes() + b"x", "got 1 of them and 1 bytes more"),
        (RECORDS[:1].tobytes() + b"\x0a" + bytes(3072), "labels of 0 to 9, got 10 in record 1"),
    ],
)
def test_cifar_says_what_is_wrong_with_a_file(tmp_path, content, message):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        datasets.cifar10(tmp_path)
    assert len(datasets.cifar10(tmp_path, split="test")[0]) == 2


def test_cifar_says_what_is_missing(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(ArgumentError, match="split: expected"):
        datasets.cifar10(tmp_path, split="valid")
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_4.bin"):
        datasets.cifar10(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match="only the Python version"):
        datasets.cifar10(tmp_path)
