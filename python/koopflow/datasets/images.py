"""Readers of image files: IDX (MNIST), CIFAR-10, pictures, and whatever of these lies at a path.

All of them give images ``[N, C, H, W]``, float32 in [-1, 1], and labels ``[N]``, int64, or None.
"""

from __future__ import annotations

import errno
import gzip
import struct
import zlib
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ArgumentError, DatasetError, DtypeError, ShapeError
from .arrays import arrays, check_count, existing, is_numpy, visible
from .pixels import Images, Labels, checked_resample, checked_size, from_uint8, resize

SPLITS = {"train": "train", "test": "t10k"}
# Types of IDX files that are not unsigned bytes, by the third byte of the magic number.
IDX_DTYPES = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
IDX_NAMES = {3: "images", 1: "labels"}
CIFAR_SHAPE, CIFAR_CLASSES = (3, 32, 32), 10
CIFAR_FILES = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
PICTURES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def images(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    layout: str | None = None,
    limits: tuple[float, float] | None = None,
    channels: int | None = None,
) -> tuple[Images, Labels | None]:
    """Images, and labels if there are any, of a file or folder in any format that this package reads.

    IDX files and the folder of MNIST are read as by :func:`idx` and :func:`mnist`, ``.bin`` files and the
    folder of CIFAR-10 as by :func:`cifar10`, ``.npy`` and ``.npz`` files and folders of them as by
    :func:`arrays`, pictures (PNG, JPEG ...) and folders of them or of classes as by :func:`image_folder`.
    Images are ``[N, C, H, W]``, float32 in [-1, 1]; labels are ``[N]``, int64, or None where there are none.

    Parameters
    ----------
    path : path
        File or folder; nothing is downloaded.
    split : {"train", "test"}, optional
        Part of MNIST or CIFAR-10 that is read from a folder; None reads ``"train"``.
    size, resample, channels
        As in :func:`image_folder`; ``channels`` is for pictures only.
    layout, limits
        As in :func:`arrays`, for NumPy files only.

    Raises
    ------
    DatasetError, ArgumentError
        When the path holds no known format or several, or an option belongs to another format; and what the
        reader of the format raises.
    """
    place = existing(path)
    formats = {
        "IDX": (_is_idx, ("split",)),
        "CIFAR-10": (_is_cifar, ("split",)),
        "NumPy": (is_numpy, ("layout", "limits")),
        "picture": (_is_picture, ("channels",)),
    }
    found = [name for name, (recognises, _) in formats.items() if recognises(place)]
    if len(found) != 1:
        got = f"{' and '.join(found)} files in the same folder" if found else _description(place)
        raise DatasetError(f"{place}: expected images of one format ({', '.join(formats)}), got {got}")
    given = {"split": split, "layout": layout, "limits": limits, "channels": channels}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - set(formats[found[0]][1]):
        raise ArgumentError(f"{name}: expected None for {found[0]} files, got {options[name]!r}")
    if split is not None and not place.is_dir():
        raise ArgumentError(f"split: expected None, since {place} is one file, got {split!r}")
    if found[0] == "picture":
        # Resized one by one, since they may be of different sizes.
        return image_folder(place, size=size, resample=resample, **options)
    if found[0] == "NumPy":
        pixels, labels = arrays(place, **options)
    elif found[0] == "CIFAR-10":
        pixels, labels = cifar10(place, **options) if place.is_dir() else _cifar([place])
    elif place.is_dir():
        pixels, labels = _mnist(place, "raw", **options)
    else:
        beside = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
        pixels, labels = idx(place, beside if beside != place and beside.exists() else None)
    return (pixels if size is None else resize(pixels, size, resample=resample)), labels


def _description(place: Path) -> str:
    if not place.is_dir():
        return f"{place.stat().st_size} bytes of something else"
    names = [entry.name for entry in visible(place)]
    return f"a folder with {', '.join(names[:4])}{', ...' * (len(names) > 4)}" if names else "an empty folder"


# --- IDX ------------------------------------------------------------------------------------------


def idx(
    images: str | PathLike[str], labels: str | PathLike[str] | None = None
) -> tuple[Images, Labels | None]:
    """Images ``[N, 1, H, W]``, and their labels, of IDX files.

    Parameters
    ----------
    images : path
        File of unsigned bytes in three dimensions (``train-images-idx3-ubyte``), gzipped or not.
    labels : path, optional
        File of unsigned bytes in one dimension (``train-labels-idx1-ubyte``), gzipped or not. Without it the
        labels are None.

    Raises
    ------
    DatasetError
        When a file is not an IDX file, has another number of dimensions, is empty, too short, too long or a
        damaged gzip file, or when the numbers of labels and images differ.
    DtypeError
        When a file holds something other than unsigned bytes.
    """
    pixels = _idx(existing(images), 3)
    if labels is None:
        return from_uint8(pixels[:, None]), None
    numbers = _idx(existing(labels), 1)
    check_count(labels, len(numbers), len(pixels), images)
    return from_uint8(pixels[:, None]), numbers.astype(np.int64)


def mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """MNIST ``[N, 1, 28, 28]``, white on black, and its digits, from the files that it is published in.

    Parameters
    ----------
    folder : path
        Folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, of which the files of the split are needed; gzipped (``.gz``) or not, also
        named ``train-images.idx3-ubyte``. torchvision's root folder works as well.
    split : {"train", "test"}, default "train"
        The 60,000 training images or the 10,000 test images.

    Raises
    ------
    FileNotFoundError, ArgumentError, DatasetError, DtypeError
        As :func:`idx`, for a missing file, and when ``split`` is another word or ``folder`` is a file.
    """
    return _mnist(_folder(folder), "MNIST/raw", split)


def fashion_mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """Fashion-MNIST, whose files have the names and the format of MNIST's: see :func:`mnist`.

    Labels: 0 T-shirt, 1 trousers, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 boot.
    """
    return _mnist(_folder(folder), "FashionMNIST/raw", split)


def _mnist(folder: Path, nested: str, split: str = "train") -> tuple[Images, Labels]:
    prefix = _checked_split(split, SPLITS)
    files = []
    for ndim, what in IDX_NAMES.items():
        file = _idx_file(folder, prefix, ndim, nested)
        if file is None:
            name = str(folder / f"{prefix}-{what}-idx{ndim}-ubyte")
            raise FileNotFoundError(errno.ENOENT, "no such file, gzipped or not", name)
        files.append(file)
    pixels, labels = idx(*files)
    assert labels is not None
    return pixels, labels


def _idx_file(folder: Path, prefix: str, ndim: int, nested: str) -> Path | None:
    stem = f"{prefix}-{IDX_NAMES[ndim]}"
    names = [f"{stem}{joint}idx{ndim}-ubyte{packed}" for joint in "-." for packed in ("", ".gz")]
    places = (place / name for place in (folder, folder / nested) for name in names)
    return next((file for file in places if file.is_file()), None)


def _is_idx(place: Path) -> bool:
    if place.is_dir():
        return any(_idx_file(place, prefix, 3, "raw") for prefix in SPLITS.values())
    magic = _content(place, 4)
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in (8, *IDX_DTYPES)


def _idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file, in the shape that its header gives."""
    if path.is_dir():
        raise ArgumentError(f"{path}: expected an IDX file, got a folder")
    content, header = _content(path), 4 + 4 * ndim
    expected = f"{path}: expected an IDX file of unsigned bytes, magic number 0x0000080{ndim}"
    magic = content[:4]
    if len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_DTYPES:
        raise DtypeError(f"{expected}, got {IDX_DTYPES[magic[2]]}")
    if magic != bytes([0, 0, 8, ndim]):
        got = f"0x{magic.hex()}" if len(magic) == 4 else f"{len(magic)} bytes"
        raise DatasetError(f"{expected}, got {got}")
    if len(content) < header:
        raise DatasetError(f"{path}: expected a header of {header} bytes, got {len(content)}")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if 0 in shape:
        raise DatasetError(f"{path}: expected at least one image or label, got the shape {shape}")
    length, rest = prod(shape), len(content) - header
    if rest != length:
        problem = "the file is cut off" if rest < length else "the file goes on"
        raise DatasetError(f"{path}: expected {length} bytes for shape {shape}, got {rest}: {problem}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path, most: int = -1) -> bytes:
    """The bytes of a file, decompressed if it is gzipped: all of them, or the first ``most``."""
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        if not packed:
            return handle.read(most)
        try:
            with gzip.GzipFile(fileobj=handle) as unpacked:
                return unpacked.read(most)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: expected a whole gzip file, got a damaged one ({error})") from error


# --- CIFAR-10 -------------------------------------------------------------------------------------


def cifar10(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """CIFAR-10 ``[N, 3, 32, 32]`` and its labels, from the files of its binary version.

    Labels: 0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.

    Parameters
    ----------
    folder : path
        Folder of ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, of which the files of
        the split are needed; or a folder with such a folder named ``cifar-10-batches-bin``.
    split : {"train", "test"}, default "train"
        The 50,000 training images or the 10,000 test images.

    Raises
    ------
    FileNotFoundError, ArgumentError, DatasetError
        When a file is not there, is empty, is not a whole number of records or has labels above 9; when
        ``split`` is another word or ``folder`` is a file.
    """
    place = _folder(folder)
    home = _cifar_home(place)
    files = [home / name for name in _checked_split(split, CIFAR_FILES)]
    for file in files:
        if not file.is_file():
            pickled = file.with_suffix("").exists() or (place / "cifar-10-batches-py").exists()
            hint = " (only the Python version of CIFAR-10: the binary one is needed)" if pickled else ""
            raise FileNotFoundError(errno.ENOENT, f"no such file{hint}", str(file))
    return _cifar(files)


def _cifar_home(folder: Path) -> Path:
    nested = folder / "cifar-10-batches-bin"
    return nested if nested.is_dir() else folder


def _is_cifar(place: Path) -> bool:
    if not place.is_dir():
        return place.suffix == ".bin"
    return any((_cifar_home(place) / name).is_file() for names in CIFAR_FILES.values() for name in names)


def _cifar(files: list[Path]) -> tuple[Images, Labels]:
    """Records of a label and three colour planes."""
    length, batches = 1 + prod(CIFAR_SHAPE), []
    for file in files:
        content = file.read_bytes()
        if not content:
            raise DatasetError(f"{file}: expected at least one image, got an empty file")
        whole, rest = divmod(len(content), length)
        if rest:
            got = f"{whole} of them and {rest} bytes more"
            raise DatasetError(f"{file}: expected records of {length} bytes, got {got}")
        records = np.frombuffer(content, np.uint8).reshape(whole, length)
        wrong = np.flatnonzero(records[:, 0] >= CIFAR_CLASSES)
        if len(wrong):
            got = f"{records[wrong[0], 0]} in record {wrong[0]}"
            raise DatasetError(f"{file}: expected labels of 0 to {CIFAR_CLASSES - 1}, got {got}")
        batches.append(records)
    records = np.concatenate(batches)
    return from_uint8(records[:, 1:].reshape(-1, *CIFAR_SHAPE)), records[:, 0].astype(np.int64)


# --- pictures -------------------------------------------------------------------------------------


def image_folder(
    path: str | PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    channels: int | None = None,
) -> tuple[Images, Labels | None]:
    """Pictures ``[N, channels, H, W]`` of a folder, or of a folder of classes, with their labels.

    Read are ``.png``, ``.jpg``, ``.jpeg``, ``.jfif``, ``.webp``, ``.bmp``, ``.tif``, ``.tiff`` and ``.gif``
    (its first frame), turned upright; hidden files and files of other kinds are not. Images are float32 in
    [-1, 1]; labels ``[N]``, int64, are the positions of the class folders among their sorted names, or None.

    Parameters
    ----------
    path : path
        Folder of pictures, read in the order of their names; or folder of folders, one for each class, whose
        pictures may lie deeper. A single picture works as well.
    size : int or (int, int), optional
        New size of every picture, as in :func:`koopflow.datasets.resize`. None takes pictures as they are,
        all of one size.
    resample : {"bicubic", "box"}, default "bicubic"
        Method of resizing.
    channels : {1, 3}, optional
        Number of channels that every picture is converted to: grey, or red, green and blue. None takes
        pictures as they are, all grey or all in colour.

    Raises
    ------
    DatasetError
        When there are no pictures, or none in one of the class folders; when pictures lie next to folders of
        pictures; when a file is not a picture, damaged or transparent.
    ShapeError
        When pictures differ in size or channels.
    DtypeError
        When pixels have more than 8 bits a channel.
    """
    if size is not None:
        size = checked_size(size)
    checked_resample(resample)
    if channels not in (None, 1, 3):
        raise ArgumentError(f"channels: expected 1, 3 or None, got {channels!r}")
    files, labels = _listed(existing(path))
    result: Images | None = None
    for index, file in enumerate(files):
        image = from_uint8(_pixels(file, channels)).transpose(2, 0, 1)[None]
        if size is not None:
            image = resize(image, size, resample=resample)
        if result is None:
            result = np.empty((len(files), *image.shape[1:]), np.float32)
        if image.shape[1:] != result.shape[1:]:
            raise ShapeError(
                f"{file}: expected (channels, height, width) {result.shape[1:]} as of {files[0].name}, got "
                f"{image.shape[1:]}; size= makes images of one size, channels= of one kind"
            )
        result[index] = image[0]
    assert result is not None
    return result, labels


def _is_picture(place: Path) -> bool:
    if not place.is_dir():
        return place.suffix.lower() in PICTURES
    return bool(_pictures(place, deep=True))


def _pictures(folder: Path, *, deep: bool) -> list[Path]:
    """The pictures of a folder in the order of their paths; ``deep`` adds those of the folders in it."""
    found = []
    for entry in visible(folder):
        if entry.is_dir():
            found += _pictures(entry, deep=True) if deep else []
        elif entry.suffix.lower() in PICTURES:
            found.append(entry)
    return found


def _listed(place: Path) -> tuple[list[Path], Labels | None]:
    """Files in order, and the class of each."""
    if not place.is_dir():
        return [place], None
    files = _pictures(place, deep=False)
    classes = {folder: _pictures(folder, deep=True) for folder in visible(place) if folder.is_dir()}
    if files:
        full = [folder.name for folder, members in classes.items() if members]
        if full:
            got = f"got both, such as {full[0]}"
            raise DatasetError(f"{place}: expected pictures or folders of pictures, {got}")
        return files, None
    if not any(classes.values()):
        raise DatasetError(f"{place}: expected pictures ({', '.join(PICTURES)}), got a folder with none")
    for folder, members in classes.items():
        # Left out, it would change the labels of all classes after it.
        if not members:
            expected = f"expected at least one picture ({', '.join(PICTURES)}) of this class"
            raise DatasetError(f"{folder}: {expected}, got none")
    labels = np.repeat(np.arange(len(classes)), [len(members) for members in classes.values()])
    return [file for members in classes.values() for file in members], labels.astype(np.int64)


def _pixels(file: Path, channels: int | None) -> NDArray[np.uint8]:
    """``[H, W, channels]``."""
    from PIL import Image, ImageOps

    # All that Pillow's decoders are known to raise on damaged files.
    damaged = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (*damaged, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: expected a picture, got something else ({error})") from error
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        opaque = image if image.mode == "LA" else image.convert("RGBA")
        if opaque.getextrema()[-1] != (255, 255):
            raise DatasetError(f"{file}: expected an opaque image, got transparent pixels")
        image = opaque.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode not in ("1", "L", "RGB", "P", "CMYK", "YCbCr", "LAB", "HSV"):
        raise DtypeError(f"{file}: expected 8 bits a channel, got pixels of mode {image.mode!r}")
    kept = channels or (1 if image.mode in ("1", "L") else 3)
    pixels = np.asarray(image.convert("L" if kept == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(image.height, image.width, kept)


def _folder(path: str | PathLike[str]) -> Path:
    place = existing(path)
    if not place.is_dir():
        raise ArgumentError(f"folder: expected a folder, got the file {place}")
    return place


def _checked_split(split: str, known: dict[str, Any]) -> Any:
    if split not in known:
        raise ArgumentError(f"split: expected 'train' or 'test', got {split!r}")
    return known[split]
