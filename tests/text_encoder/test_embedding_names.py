"""What a textual inversion is called in a prompt: by each program, and by diafano's own reading."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diafano.checkpoints.textual_inversion import add_embedding
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.prompt_embedding import Weighting, chunks_of, unknown_words, words_used
from helpers import told

WIDTH = 16


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """With two words: EasyNegative, in a folder, and Fox, whose file calls it inner."""
    folder = tmp_path_factory.mktemp("words") / "bad"
    folder.mkdir()
    save_file({"emb_params": torch.randn(2, WIDTH)}, folder / "EasyNegative.safetensors")
    torch.save({"string_to_param": {"*": torch.randn(1, WIDTH)}, "name": "inner"}, folder / "Fox.pt")
    model = copy.deepcopy(tiny_model)
    for path in sorted(folder.iterdir()):
        add_embedding(model, path)
    return model


def said(model: StableDiffusion, text: str, weighting: Weighting) -> str:
    """The words of the text's chunks, an added word's vectors in angles."""
    tokenizer, found = model.tokenizer, []
    for chunk in chunks_of(tokenizer, text, weighting):
        inside = [id_ for id_ in chunk.ids if id_ not in (tokenizer.start_token, tokenizer.end_token)]
        found += [f"<{tokenizer.name_of(id_)}>" if id_ >= tokenizer.vocabulary_size else id_ for id_ in inside]
    words = [one if isinstance(one, str) else tokenizer.name_of(one).replace("</w>", " ") for one in found]
    return "".join(words).strip()


EASY, FOX = "<EasyNegative><EasyNegative>", "<Fox>"
# The prompt -> what it says to diafano, A1111 and ComfyUI; None: the words as they stand.
CASES: list[tuple[str, str | None, str | None, str | None]] = [
    ("EasyNegative", EASY, EASY, None),
    ("easynegative", EASY, EASY, None),
    ("embedding:EasyNegative", EASY, f"embedding : {EASY}", EASY),
    ("embedding:EasyNegative.safetensors", EASY, f"embedding : {EASY}. safetensors", EASY),
    ("embedding:bad/EasyNegative", EASY, f"embedding : bad / {EASY}", EASY),
    ("embedding:EasyNegative.pt", EASY, f"embedding : {EASY}. pt", ""),
    ("embedding:nope", "", None, ""),
    ("a embedding:nope, cat", "a , cat", None, "a , cat"),
    ("embedding:EasyNegative, cat", f"{EASY}, cat", f"embedding : {EASY}, cat", f"{EASY}, cat"),
    ("(embedding:EasyNegative:1.2)", EASY, f"embedding : {EASY}", EASY),
    ("a\nembedding:Fox.pt b", f"a {FOX}b", f"a embedding : {FOX}. pt b", f"a {FOX}b"),
    ("inner", FOX, None, None),
    ("embedding:inner", FOX, None, ""),
    ("a,embedding:Fox", f"a , {FOX}", f"a , embedding : {FOX}", None),
    ("Fox1", None, f"{FOX}1", None),
    ("foxy", None, None, None),
    ("embedding: Fox", f"embedding : {FOX}", f"embedding : {FOX}", FOX),
    ("embedding:", None, None, ""),
]
PROGRAMS: tuple[Weighting, ...] = ("diafano", "a1111", "comfyui")


@pytest.mark.parametrize("weighting", PROGRAMS)
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_names(
    model: StableDiffusion,
    tiny_model: StableDiffusion,
    case: tuple[str, str | None, str | None, str | None],
    weighting: Weighting,
) -> None:
    text, *expected = case
    right = expected[PROGRAMS.index(weighting)]
    if right is None:
        right = " ".join(said(tiny_model, text.replace("embedding:", "embedding : "), weighting).split())
    assert " ".join(said(model, text, weighting).split()).replace("> ", ">") == right.replace("> ", ">")


@pytest.mark.parametrize("weighting", PROGRAMS)
def test_an_unknown_name_is_left_out_with_a_note(model: StableDiffusion, weighting: Weighting) -> None:
    text = "a cat, embedding:nope.pt, (embedding:Fox:0.5)"
    assert unknown_words(model.tokenizer, text, weighting) == ([] if weighting == "a1111" else ["embedding:nope.pt"])
    like = None if weighting == "diafano" else weighting
    if like == "a1111":
        model.generate(text, seed=1, like=like, steps=2)
        return
    with told("left out of the prompt: embedding:nope.pt"):
        model.generate(text, seed=1, like=like, steps=2)


@pytest.mark.parametrize(("like", "counts"), [(None, True), ("a1111", True), ("comfyui", False), ("diffusers", True)])
def test_a_picture_records_the_words_that_the_program_read(
    model: StableDiffusion, like: str | None, counts: bool
) -> None:
    (picture,) = model.generate("a cat, EasyNegative", seed=1, like=like, steps=2)
    assert ("TI hashes: " in picture.info["parameters"]) == counts


def test_words_used(model: StableDiffusion) -> None:
    text = "[EasyNegative:Fox:0.5] inner"
    assert words_used(model.tokenizer, text, "a1111") == {"easynegative", "fox"}
    assert words_used(model.tokenizer, text, "comfyui") == set()
    assert words_used(model.tokenizer, text, None) >= {"easynegative", "fox", "inner"}


def test_the_case_from_the_field(tmp_path: Path) -> None:
    """`EasyNegative.safetensors` of the embedded model's width."""
    import diafano

    model = diafano.load()
    if model.text_encoder.config.width != 256:
        pytest.skip("made for an embedded model of width 256")
    add_embedding(model, Path(__file__).parents[1] / "cases" / "EasyNegative.safetensors")
    for text, word in (
        ("embedding:EasyNegative.safetensors", True),
        ("embedding:EasyNegative", True),
        ("EasyNegative", False),
        ("embedding:nope", False),
    ):
        assert (words_used(model.tokenizer, text, "comfyui") == {"easynegative"}) == word
    assert unknown_words(model.tokenizer, "embedding:nope", "comfyui") == ["embedding:nope"]
