"""Settings as A1111's text."""

from diafano.infotext import infotext


def test_three_lines_in_order() -> None:
    text = infotext("an apple,\nred", "blurry", {"Steps": 50, "CFG scale": 7.0, "Size": "64x48"})
    assert text == "an apple,\nred\nNegative prompt: blurry\nSteps: 50, CFG scale: 7, Size: 64x48"


def test_an_empty_negative_prompt_has_no_line() -> None:
    assert infotext("apple", "", {"CFG scale": 7.5}) == "apple\nCFG scale: 7.5"


def test_values_that_would_break_the_line_are_quoted() -> None:
    text = infotext("apple", "", {"Model": 'a, "b": c', "Seed": 1})
    assert text == 'apple\nModel: "a, \\"b\\": c", Seed: 1'
