"""Train the judge from a recipe: ``python -m diafano.evaluation.train_judge recipes/embedded/judge.toml``."""

import sys
from pathlib import Path

import torch

from diafano.errors import UserError
from diafano.evaluation.judge_stage import JudgeRecipe, JudgeStage
from diafano.memory import keep_freed_memory
from diafano.training.loop import Progress, Training
from diafano.training.recipe import read_recipe


def main(arguments: list[str]) -> int:
    """Run it, or go on where it stopped. Returns the exit code."""
    keep_freed_memory()
    try:
        if len(arguments) != 1:
            raise UserError(
                f"the judge's training takes one recipe, but {len(arguments)} words were given: name a file"
            )
        recipe = read_recipe(Path(arguments[0]), JudgeRecipe)  # type: ignore[type-var]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        Training(JudgeStage(recipe, device), recipe.loop, recipe.output, device).run(_report)
    except UserError as error:
        print(f"diafano: {error}", file=sys.stderr)
        return 2
    print(recipe.output / "judge")
    return 0


def _report(progress: Progress) -> None:
    terms = "  ".join(f"{name} {value:.4f}" for name, value in progress.terms.items())
    speed = f"{progress.pictures_per_second:.0f} pictures/s, {progress.seconds_left:.0f} s left"
    print(f"{progress.step}/{progress.steps}  {terms}  {speed}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
