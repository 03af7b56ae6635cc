"""Marks of weights that are not numbers as they stand: scaled, packed or looked up. Read plainly they draw noise."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

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


def check_fractions(weights: Mapping[str, Tensor], where: Path | str) -> None:
    """Raises UserError for weights that are whole numbers: they were multiplied by scales, which nothing names here."""
    whole = next((name for name, tensor in weights.items() if not tensor.is_floating_point()), None)
    if whole is not None:
        kind = str(weights[whole].dtype).removeprefix("torch.")
        raise UserError(
            f"{where} holds whole numbers ({whole} is of {kind}) where weights are fractions, it was quantized: use the"
            " file in float16, bfloat16 or float32"
        )
