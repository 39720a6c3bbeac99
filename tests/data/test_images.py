import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, UInt8
from PIL import Image, ImageFile, PngImagePlugin

from imclass.data.images import decode_and_fit, decode_image, fit_image
from imclass.errors import InputError
from imclass.params import FitParams

Encode = Callable[..., bytes]
GREY = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
ORIENTATIONS: dict[int, Callable[[Any], Any]] = {  # how to turn the stored picture upright
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def decode(content: bytes, **background: int) -> UInt8[np.ndarray, "h w c"]:
    return decode_image("some.png", content, **background).transpose(1, 2, 0)


def refuse(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode_image("some.png", content)
    assert str(caught.value).startswith("some.png: ")
    return str(caught.value)


def draw(*shape: int) -> UInt8[np.ndarray, "..."]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def make_picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, as of a photograph."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([2 * columns, 2 * rows, rows + columns], axis=-1)
    return Image.fromarray(
        np.clip(smooth + np.random.default_rng(seed).integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
    )


def make_png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: `rows` with their filter bytes, `chunks` before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


def make_build(fit: str, channels: int, height: int, width: int, background: int = 255) -> FitParams:
    values = {"fit": fit, "channels": channels, "height": height, "width": width, "background": background}
    return FitParams.model_validate(values)


# Modes


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_is_one_channel_as_it_is(encode: Encode, format: str) -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(GREY), format)), GREY[:, :, None])


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_is_three_channels_as_it_is(encode: Encode, format: str) -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(RGB), format)), RGB)


def test_lossless_webp_is_as_it_is(encode: Encode) -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(RGB), "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_one_bit_is_black_and_white(encode: Encode, format: str) -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(decode(encode(Image.fromarray(bits), format))[:, :, 0], np.where(bits, 255, 0))


@pytest.mark.parametrize(("depth", "row", "expected"), [(2, 0b00_01_10_11, [0, 85, 170, 255]), (4, 0x1F, [17, 255])])
def test_few_bits_are_spread_over_all_levels(depth: int, row: int, expected: list[int]) -> None:
    assert decode(make_png(8 // depth, 1, depth, 0, bytes([0, row])))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_gives_its_colours(encode: Encode, format: str) -> None:
    colours = draw(256, 3)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(encode(image, format)), colours[GREY])


@pytest.mark.parametrize("background", [255, 0, 100])
def test_palette_with_transparency_lies_over_the_background(background: int) -> None:
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    content = make_png(3, 1, 8, 3, bytes([0, 0, 1, 2]), palette, (b"tRNS", bytes([0, 128])))
    half = [round((128 * colour + 127 * background) / 255) for colour in (40, 50, 60)]
    pixels = decode(content, background=background)
    np.testing.assert_allclose(pixels[0].astype(int), [[background] * 3, half, [70, 80, 90]], atol=1)
    assert pixels[0, ::2].tolist() == [[background] * 3, [70, 80, 90]]


@pytest.mark.parametrize("background", [255, 0])
def test_transparent_gif_lies_over_the_background(encode: Encode, background: int) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = decode(encode(image, "GIF", transparency=1), background=background)
    assert pixels[0].tolist() == [[10, 20, 30], [background] * 3, [70, 80, 90]]


@pytest.mark.parametrize("background", [255, 0, 100])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_over_the_background(encode: Encode, format: str, background: int) -> None:
    rgba = draw(16, 16, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(rgba), format, **options), background=background)
    alpha = rgba[:, :, 3:] / 255
    np.testing.assert_allclose(pixels.astype(float), alpha * rgba[:, :, :3] + (1 - alpha) * background, atol=1)
    assert (pixels[0] == background).all()
    np.testing.assert_array_equal(pixels[1], rgba[1, :, :3])


@pytest.mark.parametrize("background", [255, 0, 100])
def test_grey_with_alpha_lies_over_the_background_and_stays_grey(encode: Encode, background: int) -> None:
    pair = draw(16, 16, 2)
    pair[0, :, 1], pair[1, :, 1] = 0, 255
    pixels = decode(encode(Image.fromarray(pair, "LA"), "PNG"), background=background)
    alpha = pair[:, :, 1:] / 255
    np.testing.assert_allclose(pixels.astype(float), alpha * pair[:, :, :1] + (1 - alpha) * background, atol=1)
    assert (pixels[0] == background).all()
    np.testing.assert_array_equal(pixels[1], pair[1, :, :1])


@pytest.mark.parametrize("background", [255, 0])
def test_colour_declared_transparent_lies_over_the_background(background: int) -> None:
    grey = make_png(4, 1, 8, 0, bytes([0, 1, 2, 3, 4]), (b"tRNS", struct.pack(">H", 3)))
    assert decode(grey, background=background)[0].tolist() == [[1], [2], [background], [4]]
    rgb = make_png(2, 1, 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert decode(rgb, background=background)[0].tolist() == [[background] * 3, [4, 5, 6]]
    bits = make_png(8, 1, 1, 0, bytes([0, 0b10100000]), (b"tRNS", struct.pack(">H", 0)))
    assert decode(bits, background=background)[0, :, 0].tolist() == [255, background, 255] + [background] * 5
    wide = make_png(3, 1, 16, 0, bytes([0]) + struct.pack(">HHH", 300, 301, 65535), (b"tRNS", struct.pack(">H", 300)))
    assert decode(wide, background=background)[0].tolist() == [[background], [1], [255]]


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [("PNG", "I;16", {}), ("TIFF", "I;16", {}), ("TIFF", "I;16B", {}), ("TIFF", "I;16", {"compression": "tiff_lzw"})],
)
def test_16_bit_grey_is_divided_by_257(encode: Encode, format: str, mode: str, options: dict[str, str]) -> None:
    ramp = np.arange(65536).reshape(256, 256)
    image = Image.frombytes(mode, (256, 256), ramp.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    pixels = decode(encode(image, format, **options))
    np.testing.assert_array_equal(pixels[:, :, 0], np.floor(ramp / 257 + 0.5))


def test_cmyk_tiff_is_ink_on_white(encode: Encode) -> None:
    cmyk = draw(16, 16, 4)
    cmyk[0, :4] = [[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 255, 0]]
    pixels = decode(encode(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    paper = 255 - cmyk.astype(float)
    np.testing.assert_allclose(pixels.astype(float), paper[:, :, :3] * paper[:, :, 3:] / 255, atol=1)
    assert pixels[0, :4].tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255), (0, 128, 255, 0), (40, 80, 120, 60)])
def test_cmyk_jpeg_is_ink_on_white(encode: Encode, ink: tuple[int, ...]) -> None:
    pixels = decode(encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100))
    expected = [(255 - colour) * (255 - ink[3]) / 255 for colour in ink[:3]]
    np.testing.assert_allclose(pixels.reshape(-1, 3), np.broadcast_to(expected, (256, 3)), atol=2)


def test_damaged_cmyk_jpeg_is_refused(encode: Encode) -> None:
    content = encode(make_picture(64, 64).convert("CMYK"), "JPEG")
    refuse(content[: len(content) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (1, 1), (8, 1)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        *[("RGB", {"subsampling": subsampling}) for subsampling in ("4:4:4", "4:2:2", "4:2:0")],
        *[("RGB", {"progressive": True}), ("L", {}), ("L", {"progressive": True})],
    ],
)
def test_jpeg_gives_the_pixels_of_pillow(
    encode: Encode, size: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    content = encode(make_picture(*size).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode(content), expected.reshape(*size, -1))


# Rotation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_exif_rotation_is_applied(
    encode: Encode, format: str, options: dict[str, Any], mode: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RGB).quantize(16) if mode == "P" else Image.fromarray(RGB).convert(mode)
    pixels = decode(encode(image, format, exif=exif, **options))
    stored = np.asarray(image.convert("RGB" if mode != "L" or format == "WEBP" else "L")).reshape(5, 7, -1)
    np.testing.assert_array_equal(pixels, ORIENTATIONS[orientation](stored))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_rotation_is_applied_to_jpeg(encode: Encode, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = make_picture(24, 40).convert(mode)
    stored = decode(encode(image, "JPEG"))
    np.testing.assert_array_equal(decode(encode(image, "JPEG", exif=exif)), ORIENTATIONS[orientation](stored))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_eight_ways_to_hold_the_camera_give_one_picture(encode: Encode, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows, columns = np.mgrid[:24, :40]
    upright = (20 + 3 * columns + 4 * rows).astype(np.uint8)
    turned = ORIENTATIONS[{6: 8, 8: 6}.get(orientation, orientation)](upright)
    pixels = decode(encode(Image.fromarray(turned), "JPEG", quality=100, exif=exif))
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), upright.astype(int), atol=2)


def test_exif_behind_the_pixels_of_a_png_is_read(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(RGB), "PNG", exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    np.testing.assert_array_equal(decode(moved), ORIENTATIONS[6](RGB))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_rotation_that_only_xmp_gives_is_applied(encode: Encode, format: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"pnginfo": info} if format == "PNG" else {"xmp": xmp}
    image = make_picture(16, 24)
    stored = decode(encode(image, format))
    np.testing.assert_array_equal(decode(encode(image, format, **options)), ORIENTATIONS[6](stored))


def test_rotation_in_the_old_text_of_a_png_is_applied(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    np.testing.assert_array_equal(decode(encode(Image.fromarray(RGB), "PNG", pnginfo=info)), ORIENTATIONS[6](RGB))


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_rotation_that_does_not_exist_is_none(encode: Encode, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(Image.fromarray(RGB), "PNG", exif=exif)), RGB)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40), b"Exif\0\0MM\0*"])
def test_damaged_exif_does_not_matter(encode: Encode, exif: bytes) -> None:
    image = make_picture(16, 16)
    np.testing.assert_array_equal(decode(encode(image, "JPEG", exif=exif)), decode(encode(image, "JPEG")))


# Fitting


def resample(image: Float[np.ndarray, "h w"], box: tuple[float, float, float, float], size: tuple[int, int]) -> Any:
    """Antialiased bilinear resize of the box (left, top, right, bottom) to (height, width), as a sum of triangles."""

    def weigh(length: int, start: float, end: float, count: int) -> Float[np.ndarray, "out in"]:
        scale = (end - start) / count
        centres = start + (np.arange(count) + 0.5) * scale
        distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1)
        weights = np.maximum(0, 1 - distances)
        return weights / weights.sum(axis=1, keepdims=True)

    left, top, right, bottom = box
    height, width = image.shape
    return weigh(height, top, bottom, size[0]) @ image @ weigh(width, left, right, size[1]).T


SIZES = [((30, 40), (8, 8)), ((41, 17), (8, 8)), ((20, 20), (7, 13)), ((9, 50), (30, 20)), ((5, 6), (16, 16))]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_stretch_fits_both_sides(size: tuple[int, int], to: tuple[int, int], channels: int) -> None:
    pixels = draw(channels, *size)
    fitted = fit_image(pixels, make_build("stretch", channels, *to))
    for ours, image in zip(fitted, pixels, strict=True):
        np.testing.assert_allclose(ours, resample(image.astype(float), (0, 0, size[1], size[0]), to), atol=1.01)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_crop_fits_the_shorter_side_and_keeps_the_middle(
    size: tuple[int, int], to: tuple[int, int], channels: int
) -> None:
    pixels = draw(channels, *size)
    scale = min(size[0] / to[0], size[1] / to[1])
    height, width = scale * to[0], scale * to[1]
    left, top = (size[1] - width) / 2, (size[0] - height) / 2
    fitted = fit_image(pixels, make_build("crop", channels, *to))
    for ours, image in zip(fitted, pixels, strict=True):
        expected = resample(image.astype(float), (left, top, left + width, top + height), to)
        np.testing.assert_allclose(ours, expected, atol=1.01)


@pytest.mark.parametrize("background", [255, 0, 100])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_pad_fits_the_longer_side_with_background_beside(
    size: tuple[int, int], to: tuple[int, int], channels: int, background: int
) -> None:
    pixels = draw(channels, *size)
    scale = max(size[0] / to[0], size[1] / to[1])
    height, width = round(size[0] / scale), round(size[1] / scale)
    top, left = round((to[0] - height) / 2), round((to[1] - width) / 2)
    fitted = fit_image(pixels, make_build("pad", channels, *to, background))
    for ours, image in zip(fitted, pixels, strict=True):
        expected = np.full(to, float(background))
        inside = resample(image.astype(float), (0, 0, size[1], size[0]), (height, width))
        expected[top : top + height, left : left + width] = inside
        np.testing.assert_allclose(ours, expected, atol=1.01)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_right_shape_is_left_alone(fit: str) -> None:
    pixels = draw(3, 8, 9)
    np.testing.assert_array_equal(fit_image(pixels, make_build(fit, 3, 8, 9)), pixels)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_one_colour_stays_one_colour(fit: str) -> None:
    pixels = np.full((1, 31, 17), 77, np.uint8)
    assert (fit_image(pixels, make_build(fit, 1, 8, 9, background=77)) == 77).all()


@pytest.mark.parametrize("size", [(5, 7), (8, 8)])
def test_grey_becomes_three_equal_channels(size: tuple[int, int]) -> None:
    pixels = draw(1, *size)
    grey, rgb = (fit_image(pixels, make_build("crop", channels, 8, 8)) for channels in (1, 3))
    np.testing.assert_array_equal(rgb, np.repeat(grey, 3, axis=0))


def test_rgb_becomes_grey_by_luma() -> None:
    pixels = draw(3, 16, 16)
    red, green, blue = pixels.astype(int)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # 0.299, 0.587, 0.114 in 1/65536
    np.testing.assert_array_equal(fit_image(pixels, make_build("crop", 1, 16, 16))[0], luma)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_and_fitting_at_once_is_both_in_turn(encode: Encode, mode: str, fit: str, channels: int) -> None:
    content = encode(make_picture(19, 31).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    to = make_build(fit, channels, 8, 12, background=100)
    in_turn = fit_image(decode_image("x", content, background=100), to)
    np.testing.assert_array_equal(decode_and_fit("x", content, to), in_turn)


# Files that lie, and files that are damaged


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.txt", "a", "a.gif/b.JPEG"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
def test_extension_does_not_matter(encode: Encode, name: str, format: str) -> None:
    content = encode(Image.fromarray(RGB), format)
    np.testing.assert_array_equal(decode_image(name, content), decode_image("x", content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(500),
        b"\0",
        b"<!DOCTYPE html><html>",
        np.random.default_rng(0).bytes(5_000),
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["empty", "zeros", "zero", "html", "random", "pdf", "eps"],
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    expected = "not an image of a known format (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)" if content else "an empty file"
    assert expected in refuse(content)


@pytest.mark.parametrize("format", ["PCX", "SGI", "ICO", "TGA", "EPS"])
def test_format_that_only_pillow_knows_is_refused(encode: Encode, format: str) -> None:
    assert "not an image of a known format" in refuse(encode(Image.fromarray(RGB), format))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_cut_file_is_refused(encode: Encode, format: str) -> None:
    content = encode(make_picture(48, 64), format)
    for length in np.linspace(0, len(content) - 3, 60).astype(int).tolist():  # TIFF and GIF end in bytes of no meaning
        refuse(content[:length])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cut_jpeg_is_refused(encode: Encode, mode: str, options: dict[str, Any]) -> None:
    content = encode(make_picture(96, 120).convert(mode), "JPEG", **options)
    for length in np.linspace(0, len(content) - 1, 200).astype(int).tolist():
        refuse(content[:length])


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cut_jpeg_with_an_end_put_on_is_refused(encode: Encode, mode: str, options: dict[str, Any]) -> None:
    content = encode(make_picture(96, 120).convert(mode), "JPEG", **options)
    for length in np.linspace(0, len(content) - 3, 200).astype(int).tolist():
        refuse(content[:length] + b"\xff\xd9")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_png_with_a_flipped_bit_gives_no_other_pixels(encode: Encode, mode: str) -> None:
    content = encode(make_picture(12, 16).convert(mode), "PNG")
    sound = decode(content)
    refused = 0
    for bit in np.random.default_rng(1).choice(8 * len(content), 300, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            np.testing.assert_array_equal(decode(bytes(damaged)), sound, str(bit))
        except InputError as error:
            refused += str(error).startswith("some.png: ")
    assert refused == 300


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"compress_level": 0}, {"dpi": (72, 72)}, {"icc_profile": b"?"}]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 53)])
def test_plain_png_gives_the_pixels_of_pillow(
    encode: Encode, monkeypatch: pytest.MonkeyPatch, mode: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    content = encode(make_picture(*size).convert(mode), "PNG", **options)
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(*size, -1)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    np.testing.assert_array_equal(decode_image("some.png", content), expected.transpose(2, 0, 1))


def test_png_of_sound_chunks_with_too_little_or_wrong_in_them_is_refused() -> None:
    rows = b"".join(b"\0" + bytes(range(y, y + 8)) for y in range(8))
    assert decode_image("some.png", make_png(8, 8, 8, 0, rows)).shape == (1, 8, 8)
    for pixels in rows[:-1], rows[:9], b"", b"\5" + rows[1:]:
        assert "not a sound image" in refuse(make_png(8, 8, 8, 0, pixels))


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"])
def test_any_flipped_bit_gives_pixels_or_one_input_error(encode: Encode, format: str) -> None:
    content = encode(make_picture(12, 16), format)
    for bit in np.random.default_rng(1).choice(8 * len(content), 150, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(bytes(damaged)).dtype == np.uint8
        except InputError as error:
            assert str(error).startswith("some.png: ")  # noqa: PT017


def make_bomb(encode: Encode, format: str) -> bytes:
    """A small file whose header declares a picture of gigabytes."""
    if format == "PNG":
        return make_png(60_000, 60_000, 8, 2, b"")
    if format == "PPM":
        return b"P6 60000 60000 255\n"
    content = bytearray(encode(Image.fromarray(RGB), format))
    if format == "JPEG":
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 60_000, 60_000)
    elif format == "BMP":
        struct.pack_into("<II", content, 18, 60_000, 60_000)
    else:
        struct.pack_into("<HH", content, 6, 60_000, 60_000)
    return bytes(content)


@pytest.mark.parametrize("format", ["PNG", "PPM", "JPEG", "BMP", "GIF"])
def test_bomb_is_refused_from_its_header(encode: Encode, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    content = make_bomb(encode, format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were asked for"))
    start = time.perf_counter()
    assert any(size in refuse(content) for size in ("3600000000 pixels", "60000 x 60000"))
    assert time.perf_counter() - start < 1


def test_picture_larger_than_our_own_limit_is_refused() -> None:
    assert "expected at most 64000000 pixels, found 9000 x 9000" in refuse(make_png(9_000, 9_000, 8, 0, b""))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(encode: Encode, format: str) -> None:
    frames = [make_picture(16, 16, seed) for seed in range(3)]
    content = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert "expected one picture, found 3 frames or pages" in refuse(content)


def test_second_view_of_a_phone_is_left_out(encode: Encode) -> None:
    frames = [make_picture(32, 48, seed) for seed in range(2)]
    content = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    np.testing.assert_array_equal(decode(content), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_that_have_no_treatment_are_refused(encode: Encode, mode: str) -> None:
    message = refuse(encode(Image.new(mode, (4, 4)), "TIFF"))
    assert f"expected 8 bit or 16-bit grey, found pixels of mode {mode}" in message


def test_truncated_files_stay_refused_whatever_others_set(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(make_picture(48, 64), "PNG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refuse(content[: len(content) // 2])
