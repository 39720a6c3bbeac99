import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from imclass.data.annotations import label_images
from imclass.data.dataset import CustomImageDataset, FitImage, OneHot
from imclass.data.decode import decode_files
from imclass.data.packed import Packed, open_packed, write_packed
from imclass.data.source import read_files
from imclass.errors import InputError
from imclass.params import FitParams

DIGITS = Path(__file__).parents[2] / "data/raw/digits.zip"
RGB = np.random.default_rng(0).integers(0, 256, (21, 33, 3), np.uint8)
Encode = Callable[..., bytes]


def make_build(channels: int, fit: str, background: int = 255) -> FitParams:
    values = {"channels": channels, "height": 12, "width": 10, "fit": fit, "background": background}
    return FitParams.model_validate(values)


def pack(source: Path, folder: Path, to: FitParams) -> Packed:
    """What the stages prepare and build make of a source, with every image in train."""
    table, _ = label_images(source)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in read_files(source, table.image)}
    rows = [(image, label, "train") for image, label in zip(table.image, table.label, strict=True)]
    decoded = decode_files(read_files(source, table.image), sha256, to, workers=1)
    write_packed(folder, rows, ((chunk.names, chunk.pixels) for chunk in decoded), to.model_dump())
    return open_packed(folder)


def write_set(folder: Path, files: dict[str, bytes]) -> Path:
    """Images with their names as labels -> the annotations file beside them."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    rows = [f"{name},{name}" for name in files]
    (folder / "annotations.csv").write_text("\n".join(["image,label", *rows]))
    return folder / "annotations.csv"


def read_items(dataset: CustomImageDataset) -> list[tuple[Any, Any]]:
    return [dataset[at] for at in range(len(dataset))]


@pytest.fixture
def odd_files(encode: Encode) -> dict[str, bytes]:
    """Pictures of many modes."""
    image = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(RGB[:, :, 0]))
    return {
        **{f"{mode}.png": encode(image.convert(mode), "PNG") for mode in ("L", "1", "P", "RGB")},
        "alpha.png": encode(rgba, "PNG"),
        "grey-alpha.png": encode(rgba.convert("LA"), "PNG"),
        "wide.png": encode(Image.fromarray(RGB[:, :, 0].astype(np.uint16) * 200), "PNG"),
        "turned.jpg": encode(image, "JPEG", exif=exif),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "lossy.webp": encode(image, "WEBP"),
    }


def test_every_digit_is_as_in_the_packed_set(tmp_path: Path) -> None:
    with zipfile.ZipFile(DIGITS) as archive:
        archive.extractall(tmp_path / "digits")
    to = make_build(3, "pad")
    packed = pack(DIGITS, tmp_path / "packed", to)
    dataset = CustomImageDataset(tmp_path / "digits/annotations.csv", tmp_path / "digits", FitImage(to))
    assert len(dataset) == 1797
    at = {name: row for row, name in enumerate(label_images(DIGITS)[0].image)}
    for name, (image, label) in zip(dataset.images, read_items(dataset), strict=True):
        np.testing.assert_array_equal(image, packed.splits["train"].images[at[name]])
        assert label == packed.splits["train"].labels[at[name]]
    assert dataset.classes == packed.classes == list("0123456789")


@pytest.mark.parametrize("background", [255, 0])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_odd_pictures_are_as_in_the_packed_set(
    tmp_path: Path, odd_files: dict[str, bytes], fit: str, channels: int, background: int
) -> None:
    annotations = write_set(tmp_path, odd_files)
    to = make_build(channels, fit, background)
    packed = pack(tmp_path, tmp_path / ".packed", to)
    dataset = CustomImageDataset(annotations, tmp_path, FitImage(to), background=background)
    by_label = {dataset.classes[label]: image for image, label in read_items(dataset)}
    for image, label in zip(packed.splits["train"].images[:], packed.splits["train"].labels, strict=True):
        np.testing.assert_array_equal(by_label[packed.classes[label]], image)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        *[("JPEG", {"subsampling": subsampling}) for subsampling in ("4:4:4", "4:2:2", "4:2:0")],
        ("JPEG", {"progressive": True}),
    ],
)
def test_sound_file_is_as_torchvision_decodes_it(
    tmp_path: Path, encode: Encode, mode: str, format: str, options: dict[str, Any]
) -> None:
    from torchvision.io import decode_image

    content = encode(Image.fromarray(RGB).convert(mode), format, **options)
    image, _ = CustomImageDataset(write_set(tmp_path, {"a": content}), tmp_path)[0]
    expected = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    assert image.dtype == expected.dtype
    assert torch.equal(image, expected)


def test_items_follow_the_file_and_labels_are_positions_in_the_sorted_classes(tmp_path: Path, encode: Encode) -> None:
    for level in range(4):
        (tmp_path / f"{level}.png").write_bytes(encode(Image.new("L", (2, 3), level), "PNG"))
    (tmp_path / "some.csv").write_text("label,image\nb,3.png\n10,0.png\na,2.png\nb,1.png\n9,0.png\n")
    dataset = CustomImageDataset(str(tmp_path / "some.csv"), str(tmp_path))
    items = read_items(dataset)
    assert dataset.classes == ["10", "9", "a", "b"]
    assert [(int(image[0, 0, 0]), label) for image, label in items] == [(3, 3), (0, 0), (2, 2), (1, 3), (0, 1)]
    assert all(image.shape == (1, 3, 2) and image.dtype == torch.uint8 for image, _ in items)


def test_transforms_are_applied(tmp_path: Path, encode: Encode) -> None:
    annotations = write_set(tmp_path, {name: encode(Image.new("L", (2, 2), 7), "PNG") for name in ("a", "b")})
    dataset = CustomImageDataset(annotations, tmp_path, lambda image: image.float() / 7, OneHot(2))
    image, label = dataset[1]
    assert torch.equal(image, torch.ones(1, 2, 2))
    assert torch.equal(label, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("num_classes", [1, 2, 10])
def test_one_hot_is_one_at_the_label_alone(num_classes: int) -> None:
    rows = [OneHot(num_classes)(label) for label in range(num_classes)]
    assert torch.equal(torch.stack(rows), torch.eye(num_classes))


def test_one_hot_refuses_a_label_beyond_its_classes() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        OneHot(3)(3)


def test_items_may_be_changed_without_a_warning_or_an_effect(tmp_path: Path, encode: Encode) -> None:
    dataset = CustomImageDataset(write_set(tmp_path, {"a": encode(Image.fromarray(RGB), "PNG")}), tmp_path)
    dataset[0][0].zero_()
    np.testing.assert_array_equal(dataset[0][0].permute(1, 2, 0), RGB)


@pytest.mark.parametrize(
    "name", ["../canary.png", "x/../../canary.png", "{folder}/canary.png", "link.png", "up/canary.png"]
)
def test_path_that_leaves_the_folder_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "canary.png").touch()
    (tmp_path / "in/x").mkdir(parents=True)
    (tmp_path / "in/link.png").symlink_to(tmp_path / "canary.png")
    (tmp_path / "in/up").symlink_to(tmp_path, target_is_directory=True)
    image = name.format(folder=tmp_path)
    (tmp_path / "a.csv").write_text(f"image,label\n{image},a\n")
    dataset = CustomImageDataset(tmp_path / "a.csv", tmp_path / "in")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    with pytest.raises(InputError) as caught:
        dataset[0]
    assert str(caught.value) == f"{image}: outside {tmp_path / 'in'}"


def test_bad_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    dataset = CustomImageDataset(write_set(tmp_path, {"a.png": b"<html>"}), tmp_path)
    with pytest.raises(InputError, match="^a.png: not an image"):
        dataset[0]


def test_bad_table_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label\n1.png,a\n2.png\n")
    with pytest.raises(InputError, match="a.csv: .*\n  line 3: expected 2 fields, found 1"):
        CustomImageDataset(tmp_path / "a.csv", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_from_a_data_loader(tmp_path: Path, odd_files: dict[str, bytes], workers: int) -> None:
    dataset = CustomImageDataset(write_set(tmp_path, odd_files), tmp_path, FitImage(make_build(3, "pad")), OneHot(10))
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 12, 10), (4, 3, 12, 10), (2, 3, 12, 10)]
    assert torch.equal(
        torch.cat([images for images, _ in batches]), torch.stack([image for image, _ in read_items(dataset)])
    )
    assert torch.equal(torch.cat([labels for _, labels in batches]).argmax(1), torch.tensor(dataset.labels))
