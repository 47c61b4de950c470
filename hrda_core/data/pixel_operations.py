"""Float32 picture arithmetic of the crack generator: brightness, blur, shading, blending, light on a height map.

Masks and factors are (H, W), pictures (H, W, 3) RGB, colours (3,). Numpy multiplies a picture by an (H, W, 1) array
several times slower than by an equally large one, hence the merged factors.
"""

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue in brightness


def as_float(values: npt.ArrayLike) -> Array:
    """The values as float32: randomness in double precision must not make whole pictures double."""
    return np.asarray(values, dtype=np.float32)


def luminance(image: Array) -> Array:
    """Brightness (H, W) of a picture."""
    return as_float(cv2.transform(image, LUMA[None]))


def shaded(image: Array, factor: npt.ArrayLike) -> Array:
    """The picture with each pixel made brighter or darker by a factor (H, W)."""
    plane = as_float(factor)
    return as_float(image * cv2.merge([plane, plane, plane]))


def painted(colour: Array, factor: npt.ArrayLike) -> Array:
    """A picture of one colour under a factor (H, W)."""
    plane = as_float(factor)
    return as_float(cv2.merge([plane * channel for channel in as_float(colour)]))


def mixed(image: Array, alpha: npt.ArrayLike, other: Array) -> Array:
    """From the picture towards another picture, or towards a colour, by alpha (H, W) in 0..1."""
    plane = as_float(alpha)
    target = painted(other, plane) if other.ndim == 1 else shaded(other, plane)
    return shaded(image, 1 - plane) + target


def blur(field: Array, sigma: float) -> Array:
    """Gaussian blur by `sigma` pixels; wide ones are taken on a smaller picture."""
    if sigma < 0.2:
        return field
    if sigma < 4.0:
        return as_float(cv2.GaussianBlur(field, (0, 0), sigma))
    height, width = field.shape[:2]
    factor = sigma / 2.0
    small = cv2.resize(field, (max(2, int(width / factor)), max(2, int(height / factor))), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return as_float(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def relief(height: Array, angle: float) -> Array:
    """Light falling on a height map from `angle` (radians): positive on slopes that face the light, (H, W)."""
    x, y = np.cos(angle) / 2, np.sin(angle) / 2
    kernel = as_float([[0, -y, 0], [-x, 0, x], [0, y, 0]])
    return as_float(cv2.filter2D(height, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT))
