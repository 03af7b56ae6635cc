"""What every source of captioned pictures hands out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Example:
    """A picture and the words that describe it."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), sRGB bytes."""
    caption: str
