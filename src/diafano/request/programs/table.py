"""The programs that can be drawn like (`--like`), by their names; a new one is a file beside this and a row here."""

from diafano.errors import UserError
from diafano.request.programs.a1111 import A1111
from diafano.request.programs.comfyui import COMFYUI
from diafano.request.programs.diffusers import DIFFUSERS
from diafano.request.programs.program import Profile

DIAFANO = Profile("diafano")

PROFILES = {profile.name: profile for profile in (DIFFUSERS, A1111, COMFYUI)}


def find_profile(name: str | None) -> Profile:
    """The profile of that name; None is how diafano draws when nobody says otherwise."""
    if name is None:
        return DIAFANO
    profile = PROFILES.get(name.strip().lower())
    if profile is None:
        raise UserError(f"no program {name!r} to draw like is known: use one of {', '.join(PROFILES)}")
    return profile
