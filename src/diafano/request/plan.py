"""The plan of a request: what its names mean, resolved once."""

from diafano.errors import UserError
from diafano.request.fields import LARGEST_EDGE, Steps
from diafano.request.request import Request


class SecondRequest(Request):
    """The request of a second pass."""

    first_steps: Steps
    """Of the pass before."""


def steps_before(request: Request) -> int:
    """The steps of the pass before a second one, 0 where the request is of the first or only one."""
    return request.first_steps if isinstance(request, SecondRequest) else 0


def passes_of(request: Request, size_step: int) -> list[Request]:
    """The requests of the passes, one after the other. Sizes are rounded down to multiples of `size_step`, in pixels.

    Raises UserError for a second pass at a size that cannot be drawn.
    """
    if request.hires is None and request.hires_size is None:
        return [request]
    if request.hires_size is not None:
        width, height = request.hires_size
        if width % size_step or height % size_step:
            raise UserError(
                f"hires_size {width}x{height} is not possible: width and height must be multiples of {size_step}"
            )
    else:
        assert request.hires is not None
        width, height = (int(request.hires * edge) // size_step * size_step for edge in request.size)
        if max(width, height) > LARGEST_EDGE:
            raise UserError(
                f"hires {request.hires} makes {request.size[0]}x{request.size[1]} too large, {width}x{height}:"
                f" edges are at most {LARGEST_EDGE} pixels"
            )
    second = {
        "size": (width, height),
        "steps": request.steps if request.hires_steps is None else request.hires_steps,
        "strength": request.hires_strength,
        "first_steps": request.steps,
        "hires": None,
        "hires_size": None,
    }
    return [request, SecondRequest.model_construct(**{**dict(request), **second})]
