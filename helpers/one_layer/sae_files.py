"""Sparse autoencoders in files: saved and loaded, fetched from the Hugging Face Hub, and the two that belong to the course LM.

    sae = load_sae("course-lm-topk")
    sae = load_sae("gpt2-small-res-jb/blocks.8.hook_resid_pre")

``python -m helpers.one_layer.sae_files`` (``make sae``) trains the two of the course LM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from helpers.inputs import chosen
from helpers.interventions import resid_post
from helpers.models import COURSE_LM, COURSE_LM_FOLDER, DATA, ModelNotAvailable, load_model, summary
from helpers.one_layer.autoencoders import KINDS, SparseAutoencoder, corpus_activations, layer_of, quality
from helpers.one_layer.sae_training import Settings, train_sae
from helpers.progress import progress
from helpers.texts import held_out_texts

FOLDER = DATA / "sae"
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
RELEASES = {"gpt2-small-res-jb": "jbloom/GPT2-Small-SAEs-Reformatted"}

# What `python -m helpers.one_layer.sae_files` trains, from which place, and on how many tokens.
SHIPPED = {
    "course-lm-topk": Settings("topk", d_sae=2048, k=24, steps=4000, learning_rate=3e-3),
    "course-lm-standard": Settings("standard", d_sae=2048, sparsity=1.5, steps=4000),
}
SHIPPED_HOOK = resid_post(5)  # after half of the blocks
SHIPPED_TOKENS = 2_000_000


def save_sae(sae: SparseAutoencoder, folder: str | Path) -> Path:
    """Writes an autoencoder in the format of SAELens: ``cfg.json`` and weights in float16 (float32 where float16 is too narrow)."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu() for name, weight in sae.named_parameters()}
    narrow = {name: weight.half() for name, weight in weights.items()}
    fits = all(bool(weight.isfinite().all()) for weight in narrow.values())
    save_file({name: weight.contiguous() for name, weight in (narrow if fits else weights).items()}, folder / WEIGHTS)
    config = sae.about | {
        "architecture": sae.kind,
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "hook_name": sae.hook,
        "hook_layer": layer_of(sae.hook),
        "hook_head_index": None,
        "dtype": "float32",  # in which it is computed, however it is stored
        "activation_fn_str": "topk" if sae.kind == "topk" else "relu",
        "activation_fn_kwargs": {"k": sae.k} if sae.kind == "topk" else {},
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "prepend_bos": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def load_sae(source: str | Path) -> SparseAutoencoder:
    """Loads an autoencoder: a folder in the format of SAELens, one of ``data/sae`` by its name, or one from the Hugging Face Hub.

    Names of the Hub are a release of ``RELEASES`` or ``owner/repository``, and a path in it, such as
    ``"gpt2-small-res-jb/blocks.8.hook_resid_pre"``. What was downloaded before needs no network.
    Raises ModelNotAvailable where it cannot be had, ValueError for one of a kind that is not known here.
    """
    folder = next((place for place in (Path(source).expanduser(), FOLDER / source) if (place / CONFIG).is_file()), None)
    if folder is None and (isinstance(source, Path) or source.startswith((".", "/", "~")) or "/" not in source):
        shipped = ", ".join(sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))) or "none yet: make sae"
        raise ModelNotAvailable(f"There is no autoencoder {str(source)!r}: give a folder with {CONFIG}, or one of data/sae ({shipped}).")
    if folder is not None:
        config, weights = folder / CONFIG, folder / WEIGHTS
        if not weights.is_file():
            raise ModelNotAvailable(f"The autoencoder in {folder} has no {WEIGHTS}: save it again with save_sae, or fetch the file.")
        return _from_saelens(config, weights)
    release, *path = str(source).split("/")
    repository = RELEASES.get(release) or f"{release}/{path.pop(0)}"
    inside = "".join(f"{part}/" for part in path)
    return _from_saelens(_download(repository, inside + CONFIG), _download(repository, inside + WEIGHTS))


def _download(repository: str, file: str) -> Path:
    """A file of the Hugging Face Hub, from earlier downloads where it is there. Raises ModelNotAvailable, with one sentence."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    page = f"https://huggingface.co/{repository}"
    try:
        known = try_to_load_from_cache(repository, file)
        return Path(known if isinstance(known, str) else hf_hub_download(repository, file))
    except GatedRepoError:
        problem = f"{repository} is gated: accept its licence at {page}, then run `hf auth login` (or set HF_TOKEN) and try again"
    except LocalEntryNotFoundError:
        problem = f"{repository}/{file} is not on this machine and the Hugging Face Hub cannot be reached: connect, or use one of data/sae"
    except (RepositoryNotFoundError, EntryNotFoundError):
        problem = f"There is no {file!r} in {repository} on the Hugging Face Hub: look for the right name at {page}"
    except Exception as error:
        problem = f"{repository}/{file} could not be fetched ({summary(error)}): connect, or use one of data/sae"
    raise ModelNotAvailable(f"{problem}.")


def _from_saelens(config_file: Path, weights_file: Path) -> SparseAutoencoder:
    """An autoencoder of SAELens, older and newer configurations alike."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        weights = load_file(weights_file)
        config = config.get("metadata", {}) | config
        parts = [weights[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
    except (json.JSONDecodeError, SafetensorError, AttributeError, KeyError) as error:
        raise ModelNotAvailable(
            f"The autoencoder in {weights_file.parent} is damaged ({summary(error)}): fetch or save it again."
        ) from None
    kind, k = config.get("architecture", "standard"), config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    if "topk" in (config.get("activation_fn_str"), config.get("activation_fn")):
        kind = "topk"
    if config.get("rescale_acts_by_decoder_norm") and kind == "topk":  # features are compared by what they add to the activation
        lengths = parts[2].norm(dim=1)
        parts = [parts[0] * lengths, parts[1] * lengths, parts[2] / lengths[:, None], parts[3]]
    normalise = config.get("normalize_activations") or "none"
    chosen(KINDS, kind, "architecture")
    if normalise not in ("none", "expected_average_only_in", True):
        raise ValueError(f"This autoencoder normalises its activations ({normalise}), which is not done here: choose another one.")
    if "scaling_factor" in weights and not torch.allclose(weights["scaling_factor"].float(), torch.ones(())):
        raise ValueError("This autoencoder scales its features after encoding, which is not done here: choose another one.")
    if not config.get("apply_b_dec_to_input", True):
        parts[1] = parts[1] + parts[3] @ parts[0]
    hook = config.get("hook_name") or config.get("hook_point") or ""
    about = {key: config[key] for key in ("model_name", "model_weights") if key in config}
    return SparseAutoencoder(*parts, kind, k if kind == "topk" else None, hook, about)


def train_shipped(names: Sequence[str] = (), n_tokens: int = SHIPPED_TOKENS, folder: Path = FOLDER, n_texts: int = 400) -> None:
    """Trains the autoencoders of the course (all of ``SHIPPED``, or some) on the course LM, saves them and prints their quality."""
    if wrong := [name for name in names if name not in SHIPPED]:
        raise ValueError(f"There is no autoencoder {wrong[0]!r} to train: choose from {', '.join(SHIPPED)}.")
    model = load_model(COURSE_LM)
    sums = COURSE_LM_FOLDER / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    check_sum = next((line.split()[0] for line in lines if line.endswith("model.safetensors")), "")  # which training of the model it is
    print(f"Recording {n_tokens:,} activations at {SHIPPED_HOOK} ...")
    activations, done = torch.empty(n_tokens, model.cfg.d_model, dtype=torch.float16), 0
    with progress(total=n_tokens, desc="activations") as bar:
        for part in corpus_activations(model, SHIPPED_HOOK, n_tokens):
            activations[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    texts = held_out_texts(model, n_texts)
    for name in names or SHIPPED:
        sae, history = train_sae(activations, SHIPPED[name], hook=SHIPPED_HOOK)
        sae.about |= {"model_name": COURSE_LM, "model_weights": check_sum}
        saved = load_sae(save_sae(sae, folder / name))
        print(f"\n{name}: {folder / name}\n{history.table()}\n{quality(model, saved, SHIPPED_HOOK, texts).table()}")


if __name__ == "__main__":
    train_shipped(sys.argv[1:])
