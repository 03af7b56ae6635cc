"""Marks of weights that are not numbers as they stand: scaled, packed or looked up. Read plainly they draw noise."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from diafano.errors import UserError

MARKS: Final = {
    r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale(_2)?|weight_scale_inv|input_scale|comfy_quant)$": (
        "scaled 8-bit or 4-bit numbers"
    ),
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map)$|\.quant_state\.|\.(SCB|weight_format)$": (
        "numbers packed by bitsandbytes"
    ),
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_zero_point|wscales|smooth_factor)$": "packed integers",
}
"""Names of tensors -> what the weights beside them are."""
_ANY: Final = re.compile("|".join(f"({pattern})" for pattern in MARKS))


def check_plain(names: Iterable[str], path: Path) -> None:
    """Raises UserError, which names the mark, for a file whose weights need to be unpacked or scaled first."""
    for name in names:
        if _ANY.search(name):
            what = next(what for pattern, what in MARKS.items() if re.search(pattern, name))
            raise UserError(
                f"{path} holds {what} (it has {name}), which cannot be read yet: use the file in float16, bfloat16 or"
                " float32"
            )
