"""Textual inversions of every form: the words that prompts get by them, and what does not fit."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.textual_inversion import add_embedding, add_embeddings, read_embedding
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.pictures.files import read_parameters, save_picture
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.prompt_embedding import chunks_of
from helpers import told

WIDTH = 16
VECTORS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    return copy.deepcopy(tiny_model)


def a1111_pickle(path: Path, vectors: Tensor = VECTORS) -> None:
    notes = {"string_to_token": {"*": torch.tensor(265)}, "name": "inner", "step": 99, "sd_checkpoint": None}
    torch.save({**notes, "string_to_param": {"*": torch.nn.Parameter(vectors)}}, path)


def original_pickle(path: Path, vectors: Tensor = VECTORS) -> None:
    """As Gal et al.'s own program writes it: a module."""
    stored = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": stored}, path)


def a1111_safetensors(path: Path, vectors: Tensor = VECTORS) -> None:
    save_file({"emb_params": vectors}, path)


def diffusers_bin(path: Path, vectors: Tensor = VECTORS) -> None:
    torch.save({"<inner>": vectors}, path)


def diffusers_safetensors(path: Path, vectors: Tensor = VECTORS) -> None:
    save_file({"<inner>": vectors.clone()}, path)


FORMS: dict[str, tuple[Callable[..., None], str | None]] = {
    "a.pt": (a1111_pickle, "inner"),
    "b.pt": (original_pickle, None),
    "c.safetensors": (a1111_safetensors, None),
    "d.bin": (diffusers_bin, "<inner>"),
    "e.safetensors": (diffusers_safetensors, "<inner>"),
}


@pytest.mark.parametrize("file", FORMS)
def test_every_form_is_a_word(model: StableDiffusion, tmp_path: Path, file: str) -> None:
    write, inner = FORMS[file]
    write(tmp_path / file)
    names = add_embedding(model, tmp_path / file)
    assert names == sorted({(tmp_path / file).stem, inner} - {None})  # type: ignore[type-var]
    for name in names:
        ids = model.tokenizer.encode(f"two {name.upper()}, bananas")
        plain = model.tokenizer.encode("two , bananas")
        at = next(index for index, one in enumerate(ids) if one >= model.tokenizer.vocabulary_size)
        assert ids[:at] + ids[at + 3 :] == plain
        embedded = model.text_encoder.token_embedding(torch.tensor([ids]))[0]
        assert torch.equal(embedded[at : at + 3], VECTORS)
        known = model.text_encoder.token_embedding.weight[torch.tensor(plain)]
        assert torch.equal(torch.cat([embedded[:at], embedded[at + 3 :]]), known)


def test_one_vector_may_lack_its_first_dimension(tmp_path: Path) -> None:
    torch.save({"<inner>": VECTORS[0].clone()}, tmp_path / "x.bin")
    assert torch.equal(read_embedding(tmp_path / "x.bin")["<inner>"], VECTORS[:1])
    torch.save({"<a>": VECTORS[0].half(), "<b>": VECTORS[1:].double()}, tmp_path / "x.bin")
    assert {name: len(vectors) for name, vectors in read_embedding(tmp_path / "x.bin").items()} == {"<a>": 1, "<b>": 2}


def test_the_model_itself_stays_as_it_was(model: StableDiffusion, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    a1111_safetensors(tmp_path / "cat.safetensors")
    add_embedding(model, tmp_path / "cat.safetensors")
    assert model.text_encoder.state_dict().keys() == tiny_model.text_encoder.state_dict().keys()
    assert model.tokenizer.vocabulary_size == tiny_model.tokenizer.vocabulary_size
    save_folder(model, tmp_path / "saved")
    assert diafano.load(tmp_path / "saved", device="cpu").tokenizer.encode("cat") == tiny_model.tokenizer.encode("cat")
    one, other = (each.generate("a fox", seed=1)[0].tobytes() for each in (model, tiny_model))
    assert one == other
    model.text_encoder.to(torch.float16)
    assert model.text_encoder(torch.tensor([model.tokenizer.encode("a cat")])).dtype == torch.float16


def test_it_counts_in_prompt_negative_and_with_weights(model: StableDiffusion, tmp_path: Path) -> None:
    a1111_safetensors(tmp_path / "Toy-1.safetensors", 5 * VECTORS)
    add_embedding(model, tmp_path / "Toy-1.safetensors")
    prompts = ["a toy", "a toy-1", "a (toy-1:1.5)", "a [toy-1|fox]", "a embedding:toy-1, toy-1"]
    drawn = [np.asarray(model.generate(prompt, seed=1)[0]).tobytes() for prompt in prompts]
    drawn += [np.asarray(model.generate("a fox", negative=one, seed=1)[0]).tobytes() for one in ("", "toy-1")]
    assert len(set(drawn)) == len(drawn)
    for like in ("diffusers", "a1111", "comfyui"):
        one, other = (model.generate(text, seed=1, like=like)[0].tobytes() for text in ("a toy-1", "a toy"))
        assert one != other


def test_a_word_of_several_vectors_is_never_torn_apart(model: StableDiffusion, tmp_path: Path) -> None:
    a1111_safetensors(tmp_path / "many.safetensors", torch.randn(40, WIDTH))
    add_embedding(model, tmp_path / "many.safetensors")
    (word,) = {tuple(model.tokenizer.encode("many"))}
    for words in range(30, 45):
        chunks = chunks_of(model.tokenizer, "two " * words + "many many")
        for chunk in chunks:
            inside = [one for one in chunk.ids if one >= model.tokenizer.vocabulary_size]
            assert inside in ([], list(word))
        assert sum(len(set(chunk.ids) & set(word)) for chunk in chunks) == 80


@pytest.mark.parametrize("text", ["manyfold", "a-many2", "Germany", "man"])
def test_a_name_counts_only_where_it_stands_alone(model: StableDiffusion, tmp_path: Path, text: str) -> None:
    a1111_safetensors(tmp_path / "many.safetensors")
    before = model.tokenizer.encode(text)
    add_embedding(model, tmp_path / "many.safetensors")
    assert model.tokenizer.encode(text) == before
    assert model.tokenizer.encode("(many)") != before


def test_the_longest_name_wins_and_tokens_are_spelled(model: StableDiffusion, tmp_path: Path) -> None:
    for name in ("bad", "bad-hands", "<bad-hands>"):
        a1111_safetensors(tmp_path / f"{name}.safetensors")
    add_embeddings(model, [tmp_path])
    assert model.tokenizer.tokens("bad-hands") == ["bad-hands"] * 3
    assert model.tokenizer.tokens("<bad-hands>,a") == ["<bad-hands>"] * 3 + model.tokenizer.tokens(",a")
    assert model.tokenizer.token_count("bad") == 3


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_what_does_not_fit_is_one_sentence(
    model: StableDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    a1111_safetensors(path, torch.ones(2, 768))
    with pytest.raises(UserError, match=r"width 768, for Stable Diffusion 1, and the text encoder of tiny takes 16"):
        add_embedding(model, path)
    a1111_safetensors(path, torch.ones(76, WIDTH))
    with pytest.raises(UserError, match="76 vectors"):
        add_embedding(model, path)
    for content, said in (
        ({"clip_g": torch.ones(1, 1280), "clip_l": torch.ones(1, 768)}, "XL"),
        ({"emb_params": torch.ones(1, 1, WIDTH)}, r"shape \(1, 1, 16\)"),
        ({"emb_params": torch.full((1, WIDTH), torch.nan)}, "NaN or infinite"),
        ({"lora_unet_x.lora_up.weight": torch.ones(2, WIDTH)}, "is a LoRA, and no textual inversion"),
        ({"x": torch.ones(2, 2, 2)}, "no textual inversion: it has x"),
    ):
        save_file(content, path)
        with pytest.raises(UserError, match=said):
            add_embedding(model, path)
    torch.save({"string_to_param": {"*": VECTORS}, "extra": Runs()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"print.*nothing was run"):
        add_embedding(model, tmp_path / "x.pt")
    torch.save({"string_to_param": {"*": VECTORS, "**": VECTORS}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="no single entry"):
        add_embedding(model, tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"<x>": 1}))
    with pytest.raises(UserError):
        add_embedding(model, tmp_path / "x.pt")
    assert "ran" not in capsys.readouterr().out
    assert not model.addons.words


def test_complaint_keys_that_match_nothing_are_dropped_in_silence(model: StableDiffusion, tmp_path: Path) -> None:
    save_file({"emb_params": VECTORS, "other": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"other beside its vectors.*--allow-partial"):
        add_embedding(model, tmp_path / "x.safetensors")
    with told("other beside its vectors"):
        add_embedding(model, tmp_path / "x.safetensors", allow_partial=True)


# ---- load and the command


def test_a_folder_leaves_out_what_does_not_fit_and_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    a1111_safetensors(tmp_path / "good.safetensors")
    a1111_safetensors(tmp_path / "wide.safetensors", torch.ones(1, 768))
    with told(r"left out of .*wide\.safetensors holds vectors of width 768"):
        model = diafano.load(tiny_folder, device="cpu", embeddings=tmp_path)
    assert set(model.addons.words) == {"good"}
    model = diafano.load(tiny_folder, device="cpu", embeddings={"<name>": tmp_path / "good.safetensors"})
    assert set(model.addons.words) == {"<name>"}


def test_the_command_records_and_draws_again(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, first, again = tmp_path / "my cat.pt", tmp_path / "first.png", tmp_path / "again.png"
    a1111_pickle(file, 5 * VECTORS)
    a1111_safetensors(tmp_path / "unused.safetensors")
    command = ["generate", "--model", tiny_folder, "--seed", 1, "--output"]
    arguments = ["a fox", "--negative", "my cat", "--embedding", file, "--embedding", tmp_path / "unused.safetensors"]
    assert cli.run([str(one) for one in (*command, first, *arguments)]) == 0
    text = read_parameters(first) or ""
    assert 'TI hashes: "my cat: ' in text and "unused" not in text
    redraw = ["generate", "--model", tiny_folder, "--from", first, "--output", again]
    capsys.readouterr()
    assert cli.run([str(one) for one in (*redraw, "--embedding", file)]) == 0
    assert capsys.readouterr().err == "" and first.read_bytes() == again.read_bytes()
    assert cli.run([str(one) for one in redraw]) == 0
    assert "TI hashes: my cat: " in capsys.readouterr().err
    save_picture(diafano.load(tiny_folder, device="cpu").generate("a fox", negative="my cat", seed=1)[0], again)
    assert first.read_bytes() != again.read_bytes()
