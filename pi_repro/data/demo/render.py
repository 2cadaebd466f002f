"""From drawings to pixels: the same drawing gives the same bytes on every x86-64 machine.

The renderer is part of the recipe, so its version is a setting and is checked. PNGs are written with zlib's
run-length strategy: it needs no hash table, whose form differs between zlib builds and CPUs, and costs 5 % in size.
"""

from __future__ import annotations

import io
from importlib import metadata

from PIL import Image

from pi_repro.errors import RequestError, StateError

#: zlib's Z_RLE, as Pillow's PNG writer takes it
_RLE = 3


def check_renderer(pinned: str) -> None:
    """Refuse to render with another renderer than a card pins ("resvg-py==0.5.0").

    Raises:
        StateError: the installed version is another, or it is not installed.
        RequestError: the pin is not of this form.
    """
    name, separator, version = pinned.partition("==")
    if name != "resvg-py" or not separator:
        raise RequestError("unknown renderer", where="settings.renderer", given=pinned, allowed="resvg-py==<version>")
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        installed = "not installed"
    if installed != version:
        raise StateError(
            "images would not have the card's bytes: the renderer is another",
            where="settings.renderer",
            given=f"{name} {installed}",
            allowed=pinned,
            todo=f"pip install {pinned} (or install requirements.lock)",
        )


def encode(image: Image.Image) -> bytes:
    """An RGB PNG; transparent parts become white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image.alpha_composite(layer)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG", optimize=False, compress_type=_RLE)
    return stream.getvalue()


def rasterize(svg: str, size: int) -> Image.Image:
    """An SVG document drawn on white, size x size, mode RGB; its aspect ratio is kept.

    Text in a drawing is left out rather than set in whatever fonts a machine has.

    Raises:
        StateError: the renderer refuses the drawing.
    """
    import resvg_py

    try:
        drawn = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    except ValueError as error:
        raise StateError("a drawing cannot be rendered", where=svg[:120], given=str(error)) from None
    with Image.open(io.BytesIO(bytes(drawn))) as opened:
        image = opened.convert("RGB")
    if image.size != (size, size):
        raise StateError("a drawing came out in another size", given=image.size, allowed=f"{size} x {size}")
    return image


def svg_to_png(svg: str, size: int) -> bytes:
    """`rasterize`, then `encode`."""
    return encode(rasterize(svg, size))


def image_to_png(content: bytes, size: int) -> bytes:
    """A raster image (webp, png, ...) on white, shrunk or enlarged to size x size (bicubic).

    Raises:
        StateError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            layer = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise StateError("an image cannot be decoded", given=str(error)) from None
    image = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    image.alpha_composite(layer)
    return encode(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
