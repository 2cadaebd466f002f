"""Plain JPEG files by the fast way: torchvision's decoder, which gives Pillow's pixels bit for bit.

Rule: only what both decoders are known to treat alike takes this way: baseline or progressive Huffman
frames of 8 bits with one or three components. Everything else, and every file that this decoder
refuses, is Pillow's, who alone decides which file is damaged.
"""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.io import ImageReadMode

_START = b"\xff\xd8"
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SCAN = 0xDA
#: Frames of other kinds (lossless, hierarchical, arithmetic); 0xC4, 0xC8 and 0xCC are no frames.
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def plain_frame(content: bytes) -> tuple[int, int, int] | None:
    """Height, width and components (1 or 3) of a plain JPEG file; None for any other file."""
    if content[:2] != _START:
        return None
    place, end = 2, len(content) - 9
    while place < end and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            bits, components = content[place + 4], content[place + 9]
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            width = int.from_bytes(content[place + 7 : place + 9], "big")
            return (height, width, components) if bits == 8 and components in (1, 3) and height and width else None
        if marker == _SCAN or marker in _OTHER_FRAMES:
            return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def decode(content: bytes) -> torch.Tensor | None:
    """The pixels of a plain JPEG file, uint8 [1 or 3, H, W] with the channels innermost in memory.

    None where Pillow must look at it: another kind of file, a damaged one, or one so large that Pillow
    would warn of it.
    """
    frame = plain_frame(content)
    limit = Image.MAX_IMAGE_PIXELS
    if frame is None or (limit is not None and frame[0] * frame[1] > limit):
        return None
    mode = ImageReadMode.GRAY if frame[2] == 1 else ImageReadMode.RGB
    # A copy, because torch warns of a buffer that is not writable; it costs some microseconds.
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        # What torchvision.io.decode_jpeg calls, without its bookkeeping, which costs as much as a resize's tenth.
        pixels: torch.Tensor = torch.ops.image.decode_jpeg(encoded, mode.value, False)
    except RuntimeError:
        return None
    return pixels
