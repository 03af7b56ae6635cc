"""`diafano tokens`: how a prompt is read."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from diafano.cli import options as option
from diafano.cli.panels import setting_option


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt.", metavar="PROMPT", show_default=False)],
    like: Annotated[str | None, setting_option("like")] = None,
    steps: Annotated[int | None, setting_option("steps")] = None,
    model: option.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with each token's id.")] = False,
) -> None:
    """Show how a prompt is read, by diafano and A1111, or by the program that --like names.

    A text encoder reads chunks of 75 tokens. A "·" stands between the tokens of one word; (words:1.2) have that weight.
    """
    import diafano
    from diafano.errors import UserError
    from diafano.request.programs.table import find_program
    from diafano.text_encoder.lora_tags import without_tags
    from diafano.text_encoder.prompt_reading import chunk_sentence, read_prompt, steps_sentence

    if steps is not None and not 1 <= steps <= 1000:
        raise UserError(f"steps {steps} is not possible: give a whole number from 1 to 1000")
    program = find_program(like)
    loaded = diafano.load(model, device="cpu")
    tokenizer, steps = loaded.tokenizer, loaded.card.steps if steps is None else steps
    parts = read_prompt(without_tags(prompt), tokenizer, program.weighting, steps)
    if json:
        from json import dumps

        print(dumps([_plain(asdict(part), tokenizer) for part in parts], ensure_ascii=False))
        return
    for number, part in enumerate(parts, start=1):
        if len(parts) > 1:
            print(f"prompt {number} of {len(parts)}, weight {part.weight:g}")
        for text in part.texts:
            if len(part.texts) > 1:
                print(f"{steps_sentence(text.steps)} of {steps}: {text.text.strip()}")
            for index, chunk in enumerate(text.chunks, start=1):
                count = f"{len(chunk)} of {tokenizer.length - 2} tokens"
                print(f"  chunk {index}, {count}{': ' if chunk else ''}{chunk_sentence(tokenizer, chunk)}")
            if text.cut:
                print(f"  left out, because {tokenizer.length - 2} tokens fit: {text.cut}")


def _plain(part: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    for text in part["texts"]:
        for chunk in text["chunks"]:
            for token in chunk:
                token["token"] = tokenizer.name_of(token["id"])
    return part
