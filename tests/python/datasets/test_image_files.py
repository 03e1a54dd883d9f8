"""Folders of image files, and the reader of whatever lies at a path."""

from __future__ import annotations

import contextlib
import gzip
import io

import numpy as np
import pytest
from PIL import Image

from koopflow import datasets
from koopflow.exceptions import ArgumentError, DatasetError, DtypeError, ShapeError

from .image_bytes import COLOUR, LEVELS, NUMBERS, PLANES, RECORDS, RNG, assert_images, idx_bytes, scaled

# --- image files ----------------------------------------------------------------------------------


def write(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")


def test_folders_of_images_are_read_in_the_order_of_names(tmp_path):
    write(tmp_path, b=COLOUR[1], c=COLOUR[2], a=COLOUR[0])
    (tmp_path / "notes.txt").write_text("passed over")
    images, labels = datasets.image_folder(tmp_path)
    assert_images(images, scaled(PLANES[:3]))
    assert labels is None
    np.testing.assert_array_equal(datasets.to_uint8(images), COLOUR[:3])
    np.testing.assert_array_equal(datasets.images(tmp_path)[0], images)
    np.testing.assert_array_equal(datasets.images(tmp_path / "b.png")[0], images[1:2])


def test_folders_of_folders_are_classes(tmp_path):
    write(tmp_path / "cat", a=LEVELS[0], b=LEVELS[1])
    write(tmp_path / "ant", z=LEVELS[2])
    write(tmp_path / "dog", a=LEVELS[3])
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("passed over")
    for read in (datasets.image_folder, datasets.images):
        images, labels = read(tmp_path)
        assert_images(images, scaled(LEVELS[[2, 0, 1, 3]])[:, None])
        assert labels.dtype == np.int64
        assert labels.tolist() == [0, 1, 1, 2]
    write(tmp_path, stray=LEVELS[0])
    with pytest.raises(DatasetError, match="expected pictures or folders of pictures, got both, such as ant"):
        datasets.image_folder(tmp_path)


@pytest.mark.parametrize("what", ["nothing", "text"])
def test_a_class_without_pictures_is_named_and_renumbers_nobody(tmp_path, what):
    for name in "023":
        write(tmp_path / name, a=LEVELS[int(name)])
    (tmp_path / "1").mkdir()
    if what == "text":
        (tmp_path / "1" / "a.svg").write_text("<svg/>")
    warned = pytest.warns(UserWarning, match="1 .svg") if what == "text" else contextlib.nullcontext()
    for read in (datasets.image_folder, datasets.images):
        with warned, pytest.raises(DatasetError, match=r"/1: expected at least one picture .* of this class"):
            read(tmp_path)
    (tmp_path / "1" / "a.svg").unlink(missing_ok=True)
    Image.fromarray(LEVELS[1]).save(tmp_path / "1" / "a.webp", lossless=True)
    images, labels = datasets.images(tmp_path, channels=1)
    assert labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(images[:, 0], scaled(LEVELS[:4]), atol=0.02)


def test_pictures_of_a_class_may_lie_deeper(tmp_path):
    write(tmp_path / "cat", a=LEVELS[0])
    (tmp_path / "dog").mkdir()
    write(tmp_path / "dog" / "more", a=LEVELS[1])
    write(tmp_path / "dog" / "more" / "still", a=LEVELS[2])
    write(tmp_path / "dog", z=LEVELS[3])
    for read in (datasets.image_folder, datasets.images):
        images, labels = read(tmp_path)
        assert_images(images, scaled(LEVELS[:4])[:, None])
        assert labels.tolist() == [0, 1, 1, 1]
    # Pictures above folders whose pictures lie deeper are both, too.
    write(tmp_path / "flat", a=LEVELS[0])
    (tmp_path / "flat" / "below").mkdir()
    assert len(datasets.images(tmp_path / "flat")[0]) == 1
    write(tmp_path / "flat" / "below" / "deep", a=LEVELS[0])
    with pytest.raises(DatasetError, match="got both, such as below"):
        datasets.images(tmp_path / "flat")


def test_files_that_are_passed_over_are_counted_once(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / name, a=LEVELS[0])
        (tmp_path / name / "b.HEIC").write_bytes(b"?")
        (tmp_path / name / "deeper").mkdir()
        (tmp_path / name / "deeper" / "c.heic").write_bytes(b"?")
        for litter in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", "labels.csv"):
            (tmp_path / name / litter).write_bytes(b"?")
    (tmp_path / "cat" / "d.svg").write_bytes(b"?")
    for read in (datasets.image_folder, datasets.images):
        with pytest.warns(
            UserWarning, match=r"2 pictures .* are read, .* are ignored: 4 \.heic, 1 \.svg"
        ) as warned:
            assert read(tmp_path)[1].tolist() == [0, 1]
        assert len(warned) == 1


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "tiff", "jfif", "gif", "JPEG", "PNG"])
def test_every_suffix_is_read(tmp_path, suffix):
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[:, None], 16, axis=1)
    kind = {"jfif": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(ramp).save(tmp_path / f"b.{suffix}", kind)
    write(tmp_path, a=ramp)
    images, _ = datasets.images(tmp_path, channels=1)
    assert len(images) == 2
    np.testing.assert_allclose(images[1], images[0], atol=0.06)


def test_images_of_any_size_are_resized(tmp_path):
    even = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    write(tmp_path, a=even, b=COLOUR[0])
    with pytest.raises(
        ShapeError, match=r"b.png: expected .* \(3, 8, 12\) as of a.png, got \(3, 6, 7\); size="
    ):
        datasets.image_folder(tmp_path)
    images, _ = datasets.image_folder(tmp_path, size=4, resample="box")
    assert images.shape == (2, 3, 4, 4)
    # The middle 8 by 8, in boxes of two by two.
    boxes = scaled(even[:, 2:10]).reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert_images(images[0], boxes)
    smooth, _ = datasets.images(tmp_path, size=(4, 6))
    assert smooth.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(smooth[0].mean(), scaled(even).mean(), atol=0.05)


def test_grey_and_colour_are_told_apart_and_converted(tmp_path):
    write(tmp_path, a=COLOUR[0], b=COLOUR[1, ..., 0])
    with pytest.raises(ShapeError, match=r"b.png: expected .* \(3, 6, 7\) .*, got \(1, 6, 7\).*channels="):
        datasets.image_folder(tmp_path)
    images, _ = datasets.image_folder(tmp_path, channels=3)
    assert_images(images[1], np.broadcast_to(scaled(COLOUR[1, ..., 0]), (3, 6, 7)))
    grey, _ = datasets.image_folder(tmp_path, channels=1)
    luma = COLOUR[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[0, 0], luma / 127.5 - 1.0, atol=0.01)


def test_modes_of_png_files(tmp_path):
    def read(image):
        image.save(tmp_path / "one.png")
        return datasets.image_folder(tmp_path)[0]

    white = np.full((6, 7, 1), 255, np.uint8)
    opaque = Image.fromarray(np.concatenate([COLOUR[0], white], axis=2))
    assert_images(read(opaque)[0], scaled(PLANES[0]))
    assert_images(
        read(Image.fromarray(np.concatenate([COLOUR[0, ..., :1], white], axis=2)))[0], scaled(PLANES[0, :1])
    )
    palette = Image.fromarray(COLOUR[0]).quantize(8)
    assert_images(read(palette)[0], scaled(np.asarray(palette.convert("RGB"))).transpose(2, 0, 1))
    bits = COLOUR[0, ..., 0] > 100
    assert_images(read(Image.fromarray(bits))[0, 0], np.where(bits, 1.0, -1.0))
    white[2, 3] = 254
    with pytest.raises(DatasetError, match="one.png: expected an opaque image, got transparent pixels"):
        read(Image.fromarray(np.concatenate([COLOUR[0], white], axis=2)))
    palette.save(tmp_path / "one.png", transparency=0)
    with pytest.raises(DatasetError, match="one.png: expected an opaque image"):
        datasets.image_folder(tmp_path)
    with pytest.raises(DtypeError, match="one.png: expected 8 bits a channel, got pixels of mode 'I;16"):
        read(Image.fromarray(COLOUR[0, ..., 0].astype(np.uint16) * 257))


def test_photographs_stand_upright(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[:, None], 16, axis=1)
    photograph = Image.fromarray(ramp)
    exif = photograph.getexif()
    exif[0x0112] = 6  # Turned by a quarter, clockwise, to be looked at.
    photograph.save(tmp_path / "photograph.JPG", "JPEG", exif=exif, quality=95)
    images, _ = datasets.image_folder(tmp_path)
    assert images.shape == (1, 1, 16, 32)
    np.testing.assert_allclose(images[0, 0], scaled(np.rot90(ramp, -1)), atol=0.05)


@pytest.mark.parametrize("name", ["one.png", "one.jpg"])
def test_damaged_images_are_named(tmp_path, name):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        buffer, "PNG" if name.endswith("png") else "JPEG"
    )
    whole = buffer.getvalue()
    for content in (b"", b"text", *[whole[: int(share * len(whole))] for share in (0.01, 0.1, 0.5, 0.9)]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f"{name}: expected a picture, got something else"):
            datasets.image_folder(tmp_path)


def test_image_folders_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.image_folder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"expected pictures \(\.bmp, .*\.webp\), got a folder with none"):
        datasets.image_folder(tmp_path)
    for options, message in [
        ({"size": 0}, "size: expected"),
        ({"resample": "nearest"}, "resample: expected"),
        ({"channels": 2}, "channels: expected 1, 3 or None, got 2"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            datasets.image_folder(tmp_path, **options)


# --- whatever lies there --------------------------------------------------------------------------


def test_single_files_are_recognised(tmp_path):
    for name, array in (("train-images-idx3-ubyte", LEVELS), ("other", LEVELS)):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    images, labels = datasets.images(tmp_path / "other.gz")
    assert_images(images, scaled(LEVELS)[:, None])
    assert labels is None
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(NUMBERS))
    np.testing.assert_array_equal(datasets.images(tmp_path / "train-images-idx3-ubyte.gz")[1], NUMBERS)
    (tmp_path / "batch.bin").write_bytes(RECORDS[:3].tobytes())
    images, labels = datasets.images(tmp_path / "batch.bin")
    assert images.shape == (3, 3, 32, 32)
    np.testing.assert_array_equal(labels, RECORDS[:3, 0])
    for file in ("other.gz", "batch.bin"):
        with pytest.raises(ArgumentError, match="split: expected None, since .* is one file, got 'train'"):
            datasets.images(tmp_path / file, split="train")


def test_any_format_is_resized(tmp_path):
    (tmp_path / "batch.bin").write_bytes(RECORDS[:3].tobytes())
    images, _ = datasets.images(tmp_path / "batch.bin", size=8, resample="box")
    planes = scaled(RECORDS[:3, 1:]).reshape(3, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    assert_images(images, planes)


def test_unknown_and_mixed_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.images(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="expected images of one format .*, got an empty folder"):
        datasets.images(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="got a folder with notes.txt"):
        datasets.images(tmp_path)
    with pytest.raises(DatasetError, match="notes.txt: expected images of one format .*, got 8 bytes of"):
        datasets.images(tmp_path / "notes.txt")
    write(tmp_path, a=LEVELS[0])
    with pytest.raises(ArgumentError, match="layout: expected None for picture files, got 'NHW'"):
        datasets.images(tmp_path, layout="NHW")
    np.save(tmp_path / "some.npy", LEVELS)
    with pytest.raises(DatasetError, match="got NumPy and picture files in the same folder"):
        datasets.images(tmp_path)
