"""`diafano objects`: what a model of emoji scenes was trained to draw."""

from diafano.cli import options as option


def command(model: option.Model = None) -> None:
    """List the objects that a model of emoji scenes was trained to draw, with the nouns that they go by."""
    import diafano
    from diafano.errors import UserError
    from diafano.training.data.emoji.colours import COLOURS, TINTS
    from diafano.training.data.emoji.languages import GRAMMARS, languages_of

    card = diafano.load(model).card
    if card.objects is None:
        raise UserError(f"the model {card.name!r} does not say what it was trained to draw: ask whoever trained it")
    grammars = [GRAMMARS[language]() for language in languages_of(card.languages)]
    for name in card.objects:
        print("; ".join(", ".join(grammar.names(name)) for grammar in grammars))
    print()
    print(f"{len(card.objects)} things, each in its own look or {', '.join(TINTS)};")
    print(f"one to four of them, on a background that is {', '.join(COLOURS)}")
