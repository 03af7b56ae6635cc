"""Controls: pictures that a run is to follow, by the residuals of ControlNets."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning
from diafano.networks.controlnet import ControlNet, check_control
from diafano.networks.unet import Residuals, UNet
from diafano.pictures.files import opened
from diafano.pictures.pixels import to_pixels
from diafano.sampling.clock import Clock


@dataclass(frozen=True)
class Control:
    """A picture that a drawing is to follow, and how."""

    network: ControlNet
    picture: Image.Image
    """What the network was trained on, such as edges or poses; it is scaled and cropped to the size that is drawn.

    The path of a picture file may be given: it is read.
    """
    strength: float = 1.0
    """Factor on the residuals; 0 is as if there were no control."""
    start: float = 0.0
    """Share of the steps before it acts."""
    end: float = 1.0
    """Share of the steps after which it acts no more."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "picture", opened(self.picture, "the control's picture"))
        if not 0 <= self.strength <= 10:
            raise UserError(f"the control's strength {self.strength} is not possible: give a number from 0, 1 is usual")
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(
                f"the control's start {self.start} and end {self.end} are not possible: give shares of the steps from 0"
                " to 1, the start not after the end"
            )

    def acts(self, step: int, steps: int, *, like_a1111: bool = False) -> bool:
        """Whether it acts in that step, from 0. A1111 also takes the step that begins where the control ends."""
        begins, ends = step / steps, (step + 1) / steps
        return begins >= self.start and (begins <= self.end if like_a1111 else ends <= self.end)

    def recorded(self) -> str:
        """A1111's words for it."""
        numbers = (("Weight", self.strength), ("Guidance Start", self.start), ("Guidance End", self.end))
        weight, start, end = (f"{key}: {repr(float(value)).removesuffix('.0')}" for key, value in numbers)
        return f"Module: none, Model: {self.model}, {weight}, Resize Mode: Crop and Resize, {start}, {end}"

    @property
    def model(self) -> str:
        """A1111's words for the network."""
        return f"{self.network.name} [{self.network.hash}]".replace(",", "").replace(":", "")

    @property
    def picture_hash(self) -> str:
        """The first 8 hexadecimal digits of the SHA-256 of the picture's pixels."""
        return hashlib.sha256(self.picture.convert("RGB").tobytes()).hexdigest()[:8]


class Controlled:
    """A `Network`: a UNet that is given the residuals of controls."""

    def __init__(
        self,
        unet: UNet,
        controls: Sequence[Control],
        scaled: Callable[[Image.Image], Image.Image],
        steps: int,
        clock: Clock,
        *,
        like_a1111: bool = False,
    ) -> None:
        """`scaled` makes a control's picture of the size, and the part, that is drawn; for `like_a1111` see
        `Control.acts`. Raises UserError for a network that does not fit the UNet.
        """
        for control in controls:
            check_control(control.network, unet)
        self.unet, self.controls, self.steps, self.clock, self.like_a1111 = unet, controls, steps, clock, like_a1111
        weight = unet.conv_in.weight
        self._hints = [
            one.network.hint((0.5 * to_pixels(scaled(one.picture)) + 0.5)[None].to(weight)) for one in controls
        ]

    def __call__(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """A UNet for inpainting takes more channels than the latent's; the networks see the latent alone."""
        total: Residuals | None = None
        for control, hint in zip(self.controls, self._hints, strict=True):
            if control.strength != 0 and control.acts(self.clock.step, self.steps, like_a1111=self.like_a1111):
                seen = latent[:, : control.network.config.in_channels]
                made = control.network(seen, timestep, conditioning, hint).scaled(control.strength)
                total = made if total is None else total.plus(made)
        predicted: Tensor = self.unet(latent, timestep, conditioning, total)
        return predicted
