"""The programs that can be drawn like (`--like`), by their names; a new one is a file beside this and a row here."""

from diafano.errors import UserError
from diafano.request.programs.a1111 import A1111
from diafano.request.programs.comfyui import COMFYUI
from diafano.request.programs.diffusers import DIFFUSERS
from diafano.request.programs.program import Program

DIAFANO = Program("diafano")

PROGRAMS = {program.name: program for program in (DIFFUSERS, A1111, COMFYUI)}


def find_program(name: str | None) -> Program:
    """The program of that name; None is how diafano draws when nobody says otherwise."""
    if name is None:
        return DIAFANO
    program = PROGRAMS.get(name.strip().lower())
    if program is None:
        raise UserError(f"no program {name!r} to draw like is known: use one of {', '.join(PROGRAMS)}")
    return program
