"""KADID-10k's types of distortion, their numbers and their levels.

RULE: these are the authors' numbers, copied and not tuned; what does not survive on other pictures is left out by
the check in `cells`, never adjusted here.

Where they come from. KADID-10k (Lin, Hosu and Saupe, QoMEX 2019) made its 25 x 5 cells with MATLAB code, whose
table of levels (imdist_generator.m) was read in public copies and agrees with two independent ports: the torch port
of ARNIQA, except where that shortens a level to fit its codec or reorders signed ones, and a numpy port used for
self-supervised quality assessment, except for its motion blur and JPEG. People's mean scores bear out the oddities:
cells that change nothing by these numbers (motion blur 1, oversaturation 1, mean shift 3) score 4.6 of 5.
"""

from __future__ import annotations

#: Type -> KADID-10k's number of the type, 1 to 25.
NUMBERS = {
    "gaussian_blur": 1,
    "lens_blur": 2,
    "motion_blur": 3,
    "color_diffusion": 4,
    "color_shift": 5,
    "color_quantization": 6,
    "desaturation": 7,
    "oversaturation": 8,
    "jpeg2000": 9,
    "jpeg": 10,
    "white_noise": 11,
    "color_noise": 12,
    "impulse_noise": 13,
    "multiplicative_noise": 14,
    "brighten": 16,
    "darken": 17,
    "mean_shift": 18,
    "jitter": 19,
    "patches": 20,
    "pixelate": 21,
    "quantization": 22,
    "color_blocks": 23,
    "sharpen": 24,
    "contrast": 25,
}

#: Type -> the parameter at levels 1 to 5, in the unit that the type's function states.
LEVELS: dict[str, tuple[float, float, float, float, float]] = {
    "gaussian_blur": (0.1, 0.5, 1, 2, 5),
    "lens_blur": (1, 2, 4, 6, 8),
    "motion_blur": (1, 2, 4, 6, 10),
    "color_diffusion": (1, 3, 6, 8, 12),
    "color_shift": (1, 3, 6, 8, 12),
    "color_quantization": (64, 48, 32, 16, 8),
    "desaturation": (0.4, 0.2, 0.1, 0, -0.4),
    "oversaturation": (1, 2, 3, 6, 9),
    "jpeg2000": (16, 32, 45, 120, 400),
    "jpeg": (43, 36, 24, 7, 4),
    "white_noise": (0.001, 0.002, 0.003, 0.005, 0.01),
    "color_noise": (0.0001, 0.0005, 0.001, 0.002, 0.003),
    "impulse_noise": (0.001, 0.005, 0.01, 0.02, 0.03),
    "multiplicative_noise": (0.001, 0.005, 0.01, 0.02, 0.05),
    "brighten": (0.1, 0.2, 0.4, 0.7, 1.1),
    "darken": (0.05, 0.1, 0.2, 0.4, 0.8),
    "mean_shift": (0.15, 0.08, 0, -0.08, -0.15),
    "jitter": (0.05, 0.1, 0.2, 0.5, 1),
    "patches": (20, 40, 60, 80, 100),
    "pixelate": (0.01, 0.05, 0.1, 0.2, 0.5),
    "quantization": (20, 16, 13, 10, 7),
    "color_blocks": (2, 4, 6, 8, 10),
    "sharpen": (1, 2, 3, 6, 12),
    "contrast": (0.3, 0.15, 0, -0.4, -0.6),
}

#: Types whose level is signed: several runs of rising strength, each from weak to strong, instead of 1 to 5.
RISING: dict[str, tuple[tuple[int, ...], ...]] = {
    "mean_shift": ((3, 2, 1), (3, 4, 5)),
    "contrast": ((3, 2, 1), (4, 5)),
}


def rising(kind: str) -> tuple[tuple[int, ...], ...]:
    """Runs of levels along which a type grows stronger, for example ((1, 2, 3, 4, 5),)."""
    return RISING.get(kind, ((1, 2, 3, 4, 5),))
