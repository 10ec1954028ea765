"""JPEG, PNG, TIFF, BMP, WebP and GIF to RGB pixels.

    checks on the header  ->  Pillow, told the one format it may try  ->  scale to 8 bits  ->
    flatten transparency  ->  turn upright

Color profiles are not applied. Each step that changes what the file says leaves a warning code.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from medgraft.config.schema import DataConfig
from medgraft.data.headers import check_png, check_webp, corrupt, icc_warnings, metadata_too_large, truncated
from medgraft.data.levels import Values, flatten, orient, to_rgb, to_uint8
from medgraft.data.limits import check_size, quiet_decoders
from medgraft.data.sniff import Kind
from medgraft.data.tiff import TiffPage, decode_wide, find_page, multiframe
from medgraft.errors import DataError, UsageError
from medgraft.types import PixelArray

_ORIENTATION = 0x0112
_MAX_SCANS = 100  # of a progressive JPEG; cameras and editors write about ten
_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")

Decoded = tuple[PixelArray, str, tuple[str, ...]]


def decode_raster(data: bytes, kind: Kind, rules: DataConfig) -> Decoded:
    """Decode one picture.

    Args:
        data: the whole file.
        kind: any kind of image but ``dicom``, told from the bytes.
        rules: limits and conversion rules.

    Returns:
        (H, W, 3) uint8, the mode of the source, warning codes.

    Raises:
        DataError: with an ``IMG_*`` code and no file name.
        UsageError: ``IMG_TRUNCATED_ALLOWED`` when something in the process made Pillow accept cut files.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "IMG_TRUNCATED_ALLOWED",
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which fills cut images with grey",
            fix="leave it False",
        )
    with quiet_decoders():
        try:
            return _decode(data, kind, rules)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # decoders raise anything on damaged data; the map below names it
            raise _named(error, data, kind) from error


def _decode(data: bytes, kind: Kind, rules: DataConfig) -> Decoded:
    page: TiffPage | None = None
    warnings: tuple[str, ...] = ()
    if kind == "png":
        warnings = check_png(data, rules)
    elif kind == "webp":
        check_webp(data, rules)
    elif kind == "tiff":
        page = find_page(data, rules)
        if page.wide:
            return _decode_wide_tiff(data, page, rules)
    pixels, mode, more = _decode_with_pillow(data, kind, page, rules)
    return pixels, mode, warnings + more


def _decode_with_pillow(data: bytes, kind: Kind, page: TiffPage | None, rules: DataConfig) -> Decoded:
    image = Image.open(io.BytesIO(data), formats=[kind.upper()])
    check_size(image.width, image.height, rules)
    if kind == "jpeg" and image.info.get("progressive") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise corrupt(f"is a progressive JPEG with more than {_MAX_SCANS} scans")
    _choose_frame(image, kind, page, rules)
    image.load()
    pixels, warnings = _to_rgb(image, rules)
    if image.format == "MPO":
        warnings += ("IMG_EXTRA_PICTURES",)
    warnings += icc_warnings(image.info.get("icc_profile"))
    orientation, more = _orientation(image)
    if page is not None:
        # Pillow has turned a TIFF upright by now and dropped the tag.
        orientation, more = 1, ("IMG_ORIENTED",) if 1 < page.orientation <= 8 else ()
    elif orientation != 1:
        pixels = orient(pixels, orientation)
    return pixels, page.mode if page else image.mode, warnings + more


def _decode_wide_tiff(data: bytes, page: TiffPage, rules: DataConfig) -> Decoded:
    values = decode_wide(data, page)
    n_colors = 1 if values.ndim == 2 or values.shape[2] == 2 else 3
    if values.ndim == 2:
        pixels, warnings = to_uint8(values, rules)
    else:
        # Alpha has its own full scale and must not take part in the choice of the color scale.
        pixels, warnings = to_uint8(values[..., 0] if n_colors == 1 else values[..., :3], rules)
        if values.shape[2] > n_colors:
            alpha = _alpha_to_uint8(values[..., n_colors])
            pixels, more = flatten(np.dstack([to_rgb(pixels), alpha]), rules.background)
            warnings += more
    pixels = to_rgb(pixels)
    if 1 < page.orientation <= 8:
        pixels, warnings = orient(pixels, page.orientation), (*warnings, "IMG_ORIENTED")
    return pixels, page.mode, warnings


def _alpha_to_uint8(alpha: Values) -> PixelArray:
    full = np.iinfo(alpha.dtype).max if np.issubdtype(alpha.dtype, np.integer) else 1.0
    scaled: PixelArray = np.clip(np.rint(alpha.astype(np.float64) / full * 255), 0, 255).astype(np.uint8)
    return scaled


def _choose_frame(image: Image.Image, kind: Kind, page: TiffPage | None, rules: DataConfig) -> None:
    if page is not None:
        image.seek(page.index)
    elif kind in ("png", "webp", "gif") and getattr(image, "is_animated", False):
        if rules.frame is None:
            raise multiframe("is an animation of several frames")
        try:
            image.seek(rules.frame)
        except EOFError:
            raise multiframe(f"has no frame {rules.frame}") from None


def _to_rgb(image: Image.Image, rules: DataConfig) -> tuple[PixelArray, tuple[str, ...]]:
    if image.mode in _INTEGER_MODES:
        pixels, warnings = to_uint8(np.asarray(image), rules)
        ignored = ("IMG_ALPHA_IGNORED",) if "transparency" in image.info else ()
        return to_rgb(pixels), warnings + ignored
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        # Pillow converts premultiplied alpha in two steps only.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        return flatten(np.asarray(image.convert(straight).convert("RGBA")), rules.background)
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise DataError("IMG_FORMAT_NOT_ALLOWED", f"has colors of mode {image.mode}", fix="convert it to RGB or grey")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), ()


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    # Parsing is skipped for the many files that have nothing to parse.
    if not any(key in image.info for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")):
        return 1, ()
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata from anywhere; a picture is not lost over it
        return 1, ("IMG_EXIF_BAD",)
    if orientation not in range(1, 9):
        return 1, ("IMG_EXIF_BAD",)
    return int(orientation), ("IMG_ORIENTED",) if orientation != 1 else ()


def _named(error: Exception, data: bytes, kind: Kind) -> Exception:
    text = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):
        return DataError(
            "IMG_TOO_MANY_PIXELS",
            "has more pixels than the decoder accepts (178 megapixels)",
            fix="save it at a smaller size or as DICOM",
        )
    if "decompressed data too large" in text or "too much memory used in text" in text:
        return metadata_too_large("carries compressed text that unpacks beyond reason")
    if "truncated" in text or isinstance(error, EOFError) or (kind == "jpeg" and b"\xff\xda" not in data):
        return truncated(f"is a {kind.upper()} file that ends early")
    if kind in ("bmp", "gif") and isinstance(error, UnidentifiedImageError) and len(data) < 64:
        return truncated(f"is a {kind.upper()} file that ends early")
    return corrupt(f"is a damaged {kind.upper()} file ({type(error).__name__})")
