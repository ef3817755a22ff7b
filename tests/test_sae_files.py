"""Autoencoders in files: what is saved is what is loaded, files of others are read as they mean it, and what is wrong is said."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import errors
from layer_tools import D_MODEL, HOOK, KINDS, draw, random_sae, random_texts
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.interventions import resid_pre
from helpers.models import ModelNotAvailable
from helpers.one_layer import sae_files
from helpers.one_layer.sae_files import SHIPPED, load_sae, save_sae


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(tmp_path, kind):
    sae, x = random_sae(kind), draw(20, D_MODEL)
    sae.about["model_name"] = "tiny"
    loaded = load_sae(save_sae(sae, tmp_path / "one"))
    assert (loaded.kind, loaded.k, loaded.hook, loaded.about) == (kind, sae.k, HOOK, {"model_name": "tiny"})
    assert all(torch.equal(weight, old.half().float()) for weight, old in zip(loaded.parameters(), sae.parameters(), strict=True))
    config, weights = json.loads((tmp_path / "one/cfg.json").read_text()), load_file(tmp_path / "one/sae_weights.safetensors")
    assert (config["architecture"], config["d_in"], config["d_sae"], config["hook_layer"]) == (kind, D_MODEL, 50, 0)
    assert config["activation_fn_kwargs"] == ({"k": 7} if kind == "topk" else {}) and config["dtype"] == "float32"
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert torch.allclose(loaded(x), sae(x), rtol=0.02, atol=0.5) or kind != "standard"


def test_weights_too_large_for_float16_stay_float32(tmp_path):
    sae = random_sae()
    sae.b_dec[0] = 1e6
    assert torch.equal(load_sae(save_sae(sae, tmp_path)).b_dec, sae.b_dec)


def test_a_saved_autoencoder_of_the_course_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sae_files, "FOLDER", tmp_path)
    save_sae(random_sae("topk"), tmp_path / "course-lm-topk")
    assert load_sae("course-lm-topk").k == 7
    with pytest.raises(ModelNotAvailable, match=r"There is no autoencoder 'nothing'.*course-lm-topk"):
        load_sae("nothing")


def write_saelens(folder, weights: dict[str, Tensor], **config) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")


def test_older_and_newer_files_of_saelens_are_read(tmp_path):
    sae, x = random_sae(), draw(10, D_MODEL)
    weights = {name: weight.data for name, weight in sae.named_parameters()}
    write_saelens(tmp_path / "old", weights | {"scaling_factor": torch.ones(50)}, hook_point="blocks.8.hook_resid_pre", d_in=D_MODEL)
    assert load_sae(tmp_path / "old").hook == resid_pre(8) and torch.equal(load_sae(tmp_path / "old")(x), sae(x))
    new = dict(architecture="topk", k=4, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=False, metadata={"hook_name": HOOK})
    write_saelens(tmp_path / "new", weights, **new)
    loaded, lengths = load_sae(tmp_path / "new"), sae.W_dec.norm(dim=1)
    before = (x @ sae.W_enc + sae.b_enc) * lengths
    values, chosen = before.topk(4)
    written = (values.relu()[..., None] * (sae.W_dec / lengths[:, None])[chosen]).sum(1) + sae.b_dec
    assert loaded.hook == HOOK and torch.allclose(loaded(x), written, rtol=1e-3, atol=1e-3)


def test_names_of_the_hub_are_looked_up_in_the_right_repository(tmp_path, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return tmp_path / file.split("/")[-1]

    monkeypatch.setattr(sae_files, "_download", download)
    save_sae(random_sae(), tmp_path)
    load_sae("gpt2-small-res-jb/blocks.8.hook_resid_pre"), load_sae("somebody/something"), load_sae("somebody/something/in/it")
    assert asked[::2] == [
        ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre/cfg.json"),
        ("somebody/something", "cfg.json"),
        ("somebody/something", "in/it/cfg.json"),
    ]


def test_files_that_cannot_be_used_say_so(tmp_path):
    weights = {name: weight.data for name, weight in random_sae().named_parameters()}
    for kept, config, problem, sentence in [
        (weights, dict(architecture="gated"), ValueError, "no architecture 'gated'; choose one of"),
        (weights, dict(normalize_activations="layer_norm"), ValueError, "normalises its activations"),
        (weights | {"scaling_factor": torch.full((50,), 2.0)}, {}, ValueError, "scales its features after encoding"),
        ({"W_enc": weights["W_enc"]}, {}, ModelNotAvailable, "is damaged"),
    ]:
        write_saelens(tmp_path, kept, **config)
        with pytest.raises(problem, match=sentence):
            load_sae(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(ModelNotAvailable, match="has no sae_weights"):
        load_sae(tmp_path)


def test_without_network_or_in_places_unknown_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotAvailable, match="connect, or use one of data/sae") as caught:
        load_sae("gpt2-small-res-jb/blocks.8.hook_nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error, sentence",
    [
        ("GatedRepoError", "is gated: accept its licence at https://huggingface.co/somebody/something"),
        ("EntryNotFoundError", "There is no 'in/it/cfg.json' in somebody/something"),
        ("RepositoryNotFoundError", "look for the right name"),
        ("HfHubHTTPError", "could not be fetched"),
    ],
)
def test_what_the_hub_answers_becomes_one_sentence(monkeypatch, error, sentence):
    def fail(repository, file):
        kind = getattr(errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelNotAvailable, match=sentence) as caught:
        load_sae("somebody/something/in/it")
    assert "\n" not in str(caught.value)


def test_shipped_ones_are_trained_saved_and_measured(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sae_files, "load_model", lambda name: tiny)
    monkeypatch.setattr(sae_files, "SHIPPED_HOOK", HOOK)
    monkeypatch.setattr(sae_files, "SHIPPED", {name: replace(s, d_sae=64, steps=4, batch=64) for name, s in SHIPPED.items()})
    monkeypatch.setattr(sae_files, "corpus_activations", lambda model, hook, n: iter(draw(n, D_MODEL).split(100)))
    monkeypatch.setattr(sae_files, "held_out_texts", lambda model, n: random_texts(n))
    sae_files.train_shipped(n_tokens=500, folder=tmp_path, n_texts=10)
    assert {load_sae(tmp_path / name).kind for name in SHIPPED} == {"topk", "standard"}
    assert load_sae(tmp_path / "course-lm-topk").about["model_name"] == "course-lm" and "loss recovered" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no autoencoder 'nothing' to train"):
        sae_files.train_shipped(["nothing"])


def test_one_of_each_kind_is_shipped_and_reads_all_its_activations():
    assert {settings.kind for settings in SHIPPED.values()} == {"topk", "standard"}
    assert all(settings.steps * settings.batch >= sae_files.SHIPPED_TOKENS for settings in SHIPPED.values())  # all is read once
