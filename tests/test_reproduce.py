"""The headline experiments on random weights of every family, with a tokenizer and a chat template of its kind; offline."""

import json
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_models import write_tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from helpers import models as loading
from helpers.course_lm.corpus.mixture import documents
from helpers.course_lm.world import World
from helpers.findings import Finding, load_all
from helpers.interventions import add, resid_post
from helpers.models import ModelNotAvailable
from helpers.one_layer.autoencoders import SparseAutoencoder
from helpers.one_layer.sae_files import save_sae
from helpers.prediction import last_logits, tokenize
from helpers.reproduce import __main__ as command
from helpers.reproduce import identities, machine
from helpers.reproduce.lab import EXPERIMENTS, Lab, NotForThisModel, read_settings
from helpers.reproduce.machine import open_model
from helpers.reproduce.results import FROM_MEMORY, Results, folder_of, published_for, read_published
from helpers.speak.lens import logit_lens

LLAMA_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content']"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
VOCABULARY = 2500  # enough that names, countries and capitals are single tokens
CONTEXT = 128


@cache
def training_texts() -> list[str]:
    """Texts of the course's corpus, and the names of people often enough to be tokens."""
    world = World.load()
    names = [f" {name}" for name in world.column("firstnames", "name")[:60]] + [f" {row['name']}" for row in world.rows("countries")[:60]]
    return [document.text for document in islice(documents(77), 600)] + [" ".join(names)] * 30


def byte_level(split: str | None, special: list[str]) -> Tokenizer:
    """A byte-level BPE, words cut as by ``split`` or as by GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cut = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cut, byte])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        training_texts(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def sentencepiece_like(special: list[str]) -> Tokenizer:
    """A BPE over letters in which a space is part of the word that follows, and letters that it does not know are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n]+|\n|▁"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    every = special + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=every, show_progress=False))
    return tokenizer


def parts(tokenizer: Tokenizer) -> dict:
    """The vocabulary and the merges of a trained tokenizer, for the class of a family."""
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def chatting(made, special: list[str], template: str):
    """The tokenizer with the special tokens and the template of its chats."""
    made.add_special_tokens({"additional_special_tokens": special})
    made.chat_template = template
    return made


def tokenizer_of(family: str):
    """A tokenizer of the family's class, with its special tokens and its template of a chat."""
    if family == "gpt2":
        return GPT2Tokenizer(**parts(byte_level(None, ["<|endoftext|>"])))
    if family == "pythia":
        return GPTNeoXTokenizer(**parts(byte_level(None, ["<|endoftext|>", "<|padding|>"])), pad_token="<|padding|>")
    if family == "llama":
        special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
        made = PreTrainedTokenizerFast(tokenizer_object=byte_level(LLAMA_SPLIT, special), bos_token=special[0], eos_token=special[1])
        return chatting(made, special[2:], LLAMA_CHAT)
    if family == "qwen":
        made = Qwen2Tokenizer(**parts(byte_level(LLAMA_SPLIT, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])), eos_token="<|im_end|>")
        return chatting(made, ["<|im_start|>"], QWEN_CHAT)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    return chatting(GemmaTokenizer(**parts(sentencepiece_like(special))), special[4:], GEMMA_CHAT)


FAMILIES = {"gpt2": "gpt2", "pythia": "neox-parallel", "llama": "llama-grouped", "qwen": "qwen2", "gemma": "gemma2"}  # architectures


def write_family(family: str, folder: Path) -> Path:
    """Writes a checkpoint with random weights of a family, with its tokenizer, to ``folder``."""
    length = "max_position_embeddings" if family != "gpt2" else "n_positions"
    return write_tiny_model(FAMILIES[family], folder, tokenizer_of(family), **{length: CONTEXT})


# ------------------------------------------------------------------------------------------------- every experiment, every family

N = "12"  # cases: enough to fit, choose and judge a linear relation
CHAT = "This model has no chat template: it was never trained to chat, so choose an instruction-tuned one"
RESCALED = (
    "This model normalises what its blocks write into the stream (as Gemma 2 does), so no head has an output of its own to attribute to"
)
UNCUT = "Edges cannot be cut in this model: its blocks norm what they write, or have no norm of their own for the MLP"
NO_CHAT = dict.fromkeys(("refusal.harmless.added", "refusal.harmful.projected"), CHAT)
NORMED = {"ioi.name_mover.copies": RESCALED, "ioi.self_repair": RESCALED, "circuit.faithfulness": UNCUT}
NOT_FOR = {"gpt2": NO_CHAT, "pythia": NO_CHAT, "llama": {}, "qwen": {}, "gemma": NORMED}
CHANCE = {  # which random weights may or may not show, and how the reason ends
    "lens.poland_layer": "on top in none of its layers",
    "lens.warsaw_layer": "on top in none of its layers",
    "lens.answer_layer_with_context": "in all three contexts for fewer than two facts",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A folder for each family; its name is the model's name in the results."""
    root = tmp_path_factory.mktemp("families")
    return {family: write_family(family, root / f"tiny-{family}") for family in FAMILIES}


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory) -> Path:
    """A dictionary with random weights for states of the tiny models."""
    rng = torch.Generator().manual_seed(0)
    written = torch.nn.functional.normalize(torch.randn(64, 32, generator=rng), dim=1)
    sae = SparseAutoencoder(written.T, torch.zeros(64), written, torch.zeros(32), "topk", 8, hook=resid_post(0))
    return save_sae(sae, tmp_path_factory.mktemp("dictionary"))


def reproduce(*arguments: object) -> int:
    """The command with these arguments; its exit status."""
    return command.main([str(argument) for argument in arguments])


def results_of(out: Path, model: str):
    """What was kept of a model's run."""
    return Results(out / model).done


@pytest.mark.parametrize("family", FAMILIES)
def test_all_experiments_run_on_random_weights_of_every_family(family: str, checkpoints, dictionary, tmp_path, capsys):
    options = ["--model", checkpoints[family], "--n", N, "--keep-wrong", "--sae", dictionary, "--out", tmp_path]
    assert reproduce(*options) == 0, capsys.readouterr().err
    done = results_of(tmp_path, f"tiny-{family}")
    assert list(done) == list(EXPERIMENTS)
    absent = {}
    for one in EXPERIMENTS.values():
        for name in one.findings:
            outcome = done[one.name].outcome(name)
            if isinstance(outcome, Finding):
                assert outcome.n >= 1 and outcome.about.control_is and outcome.low <= outcome.value <= outcome.high
            else:
                absent[name] = outcome
        assert done[one.name].seconds >= 0 and done[one.name].gigabytes > 0.05
    assert {name: reason for name, reason in absent.items() if name not in CHANCE} == NOT_FOR[family]
    assert all(absent[name].endswith(end) for name, end in CHANCE.items() if name in absent)
    printed = capsys.readouterr().out
    assert f"tiny-{family}: 2 layers of width 32 in float32 on cpu" in printed and "[15/15] 04b back_patching" in printed
    assert "what the model says was taken for right" in printed
    table = (tmp_path / f"tiny-{family}" / "table.md").read_text(encoding="utf-8")
    assert table.count("\n") == 2 + sum(len(one.findings) for one in EXPERIMENTS.values())
    assert all(f"not for this model: {reason}" in table for reason in absent.values())


def test_narrow_numbers_run_as_well(checkpoints, tmp_path, capsys):
    options = ["--model", checkpoints["gemma"], "--n", N, "--keep-wrong", "--dtype", "bfloat16", "--out", tmp_path]
    assert reproduce(*options, "--section", "01", "--section", "02a", "--section", "03a", "--section", "03b", "--section", "04a") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "in bfloat16 on cpu" in captured.out and "no wider numbers" not in captured.out


def test_all_sections_run_on_the_course_lm(course_lm, tmp_path, capsys):
    assert reproduce("--n", 8, "--out", tmp_path) == 0, capsys.readouterr().err
    done = results_of(tmp_path, "course-lm")
    found = {finding.name: finding for one in done.values() for finding in one.findings}
    assert {name: one.reason for name, one in done.items() if one.reason} == {"poland": "Poland is on top in none of its layers"}
    assert {name for one in EXPERIMENTS.values() for name in one.findings} - set(found) == {"lens.poland_layer"}
    assert found["ioi.eight_prompts"].n == 6, "Sid is not one token of the course LM, so two of the eight sentences are left out"
    assert found["refusal.harmless.added"].outcome == "shown"
    assert found["refusal.harmful.projected"].value < found["refusal.harmful.projected"].control
    assert found["icl.task_vector"].control < 0.2 and found["icl.task_vector"].value > 0.5
    asked = "Q: What is the capital of France?\nA: Paris\nQ: What is the capital of Poland?\nA:"
    best = [cell.strip() for cell in (logit_lens(course_lm, asked, k=1).cell(layer)[0][0] for layer in range(12))]
    assert found["lens.warsaw_layer"].value == best.index("Warsaw")
    assert all(isinstance(finding, Finding) and finding.about.control_is for finding in found.values())


def test_facts_that_the_model_answers_wrong_are_left_out_unless_asked_for(checkpoints, tmp_path):
    options = ["--model", checkpoints["gpt2"], "--n", N, "--out", tmp_path]
    assert reproduce(*options, "--section", "recall", "--section", "linear_relations", "--section", "back_patching") == 0
    done = results_of(tmp_path, "tiny-gpt2")
    assert not any(one.findings for one in done.values())
    assert "facts right, and an interval needs 2" in done["recall"].reason
    assert "it knows fewer than 10 subjects of each relation: capital" in done["linear_relations"].reason
    assert "passes the filters" in done["back_patching"].reason


@pytest.mark.parametrize("family", FAMILIES)
def test_identities_hold_in_every_family(family: str, checkpoints):
    found = identities.identities(open_model(str(checkpoints[family]), device="cpu"))
    assert [one.error is None for one in found] == [False, False, family == "gemma"]
    assert all(one.holds for one in found) and all(one.error < 1e-4 for one in found if one.error is not None)
    assert found[2].reason == (RESCALED if family == "gemma" else "")


def test_a_projection_that_projects_nothing_and_a_patch_that_changes_something_are_noticed(checkpoints, monkeypatch):
    model = open_model(str(checkpoints["gpt2"]), device="cpu")
    monkeypatch.setattr(identities, "ablate_direction", lambda model, direction: [])
    monkeypatch.setattr(identities, "resample_ablate", lambda place, values: add(resid_post(0), torch.arange(32.0)))
    projection, patched, total = identities.identities(model)
    assert not projection.holds and not patched.holds and total.holds
    assert projection.row().startswith("[FAIL] a direction projected out is gone from the stream: off by")


def test_a_model_in_which_mathematics_fails_is_not_measured(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "identities", lambda model: [identities.Identity("sums add up", 0.5, 0.001)])
    assert reproduce("--model", checkpoints["gpt2"], "--section", "poland", "--out", tmp_path) == 2
    assert "does not hold here (sums add up), so nothing was measured" in capsys.readouterr().err
    assert not results_of(tmp_path, "tiny-gpt2")


def test_a_run_goes_on_where_it_stopped(checkpoints, tmp_path, monkeypatch, capsys):
    options = ["--model", checkpoints["gpt2"], "--n", N, "--out", tmp_path, "--section", "04a", "--keep-wrong"]
    names = [one.name for one in EXPERIMENTS.values() if one.section == "04a"]
    ran, real = [], command.carry_out

    def stopped(one, own_lab):
        if one.name == names[-1] and not ran.count("stopped"):
            ran.append("stopped")
            raise KeyboardInterrupt
        ran.append(one.name)
        return real(one, own_lab)

    monkeypatch.setattr(command, "carry_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce(*options)
    assert list(results_of(tmp_path, "tiny-gpt2")) == names[:-1]
    assert reproduce(*options) == 0 and ran == [*names[:-1], "stopped", names[-1]]
    assert f"{len(names) - 1} of {len(names)} experiments have run before; --again runs them anew." in capsys.readouterr().out
    monkeypatch.setattr(command, "open_model", lambda *_: pytest.fail("all has run: no model is needed"))
    assert reproduce(*options) == 0 and "ffn.value_says_next" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(command, "carry_out", lambda one, own_lab: ran.append("anew") or real(one, own_lab))
    assert reproduce(*options, "--again") == 0 and ran.count("anew") == len(names)
    assert reproduce(*options[:2], *options[4:], "--n", "6") == 0 and ran.count("anew") == 2 * len(names), "another n is another run"


def test_what_fails_is_not_kept_and_does_not_stop_the_rest(checkpoints, tmp_path, monkeypatch, capsys):
    def broken(own_lab):
        raise torch.OutOfMemoryError("CUDA out of memory") if own_lab.n == 12 else RuntimeError("shapes\ndo not fit")
        yield

    monkeypatch.setitem(EXPERIMENTS, "lens", replace(EXPERIMENTS["lens"], run=broken))
    options = ["--model", checkpoints["gpt2"], "--out", tmp_path, "--section", "lens", "--section", "poland", "--n"]
    assert reproduce(*options, 12) == 1
    assert "the memory of this device is too small for it; take --dtype bfloat16" in capsys.readouterr().err
    assert list(results_of(tmp_path, "tiny-gpt2")) == ["poland"]
    assert reproduce(*options, 6) == 1
    assert "RuntimeError: shapes do not fit" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"poland": {}}', '{"poland": {"findings": 3}}'])
def test_a_damaged_file_of_results_is_a_sentence(text: str, tmp_path, capsys):
    assert folder_of("Qwen/Qwen2.5-0.5B-Instruct", tmp_path) == tmp_path / "Qwen--Qwen2.5-0.5B-Instruct"
    assert folder_of("../../etc", tmp_path).parent == tmp_path
    (tmp_path / "course-lm").mkdir()
    (tmp_path / "course-lm" / "results.json").write_text(text, encoding="utf-8")
    assert reproduce("--section", "poland", "--out", tmp_path) == 2
    assert "results.json is damaged: delete it, and run again." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nobody/no-such-model"], "is not on this machine and the Hugging Face Hub cannot be reached"),
        (["--device", "tpu"], "This machine has no device 'tpu'"),
        (["--dtype", "int8"], "A model cannot be held in int8"),
        (["--section", "05"], "There is no section or experiment '05': there are 01, 02a, 02b, 02c, 03a, 03b, 04a, 04b, plural"),
        (["--device", "cpu", "--device-map", "balanced"], "give one of the two"),
        (["--n=3"], "an interval and a split need 4 cases or more"),
        (["--n=-4"], "an interval and a split need 4 cases or more"),
        (["--n=many"], "an interval and a split need 4 cases or more"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(options: list[str], words: str, tmp_path, capsys):
    try:
        assert reproduce(*options, "--out", tmp_path) == 2
    except SystemExit as ended:  # argparse
        assert ended.code == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == ""


def test_a_model_that_does_not_fit_is_refused_wherever_it_should_go(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "free_memory", lambda device: 0.0)
    for place in (["--device", "cpu"], ["--device-map", "balanced"]):
        assert reproduce("--model", checkpoints["gpt2"], *place, "--out", tmp_path) == 2
        assert "GB to load and 0.0 GB are free on cpu" in capsys.readouterr().err


@pytest.mark.parametrize("family", [*FAMILIES, "course-lm"])
def test_a_model_spread_by_a_device_map_says_the_same(family: str, checkpoints):
    one, spread = (open_model(str(checkpoints.get(family, family)), device_map=device_map) for device_map in (None, {"": "cpu"}))
    tokens = tokenize(one, "The capital of Poland is")
    assert torch.equal(tokenize(spread, "The capital of Poland is"), tokens), "the course LM's begin with a mark"
    assert torch.allclose(last_logits(one, tokens).cpu(), last_logits(spread, tokens).cpu(), atol=1e-4)


def test_an_automatic_device_map_needs_two_gpus_at_least(monkeypatch):
    for gpus, expected in ((0, {"device": "cpu"}), (1, {"device": "cpu"}), (2, {"device_map": "auto"})):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert loading.choose_place(None, "auto") == expected
    with pytest.raises(ModelNotAvailable, match="give one of the two"):
        loading.choose_place("cpu", "auto")


def test_apples_device_is_checked_against_a_known_answer_before_it_is_used(course_lm, monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(machine, "check_device", lambda device: order.append(f"check {device}"))
    monkeypatch.setattr(machine, "load_model", lambda name, device, dtype, device_map: order.append(f"load on {device}") or course_lm)
    for device in ("mps", None, "cpu"):
        machine.open_model("gpt2", device=device)
    assert order == ["check mps", "load on mps", "load on None", "load on cpu"]
    monkeypatch.undo()
    assert machine.check_device("cpu") == 0
    monkeypatch.setattr(machine, "ANSWER", " Berlin")
    with pytest.raises(ModelNotAvailable, match=r"The device 'cpu' computes wrong: the course LM continues .* with ' Warsaw' there"):
        machine.check_device("cpu")
    monkeypatch.undo()
    there = iter([0.0, 0.5])
    monkeypatch.setattr(machine, "last_logits", lambda model, tokens: last_logits(model, tokens) + next(there))
    with pytest.raises(ModelNotAvailable, match=r"0\.50 logits off; leave --device out"):
        machine.check_device("cpu")


def test_settings_belong_to_experiments_and_exact_names_come_first(course_lm):
    rows = read_settings()
    assert {row["experiment"] for row in rows} <= {*EXPERIMENTS, "indirect_objects"}
    assert len({(row["experiment"], row["model"], row["setting"]) for row in rows}) == len(rows)
    lines = (("x", "*", "a", "any"), ("x", "gpt*", "a", "family"), ("x", "gpt2", "a", "exact"), ("x", "gpt2", "b", ""))
    own = [dict(zip(("experiment", "model", "setting", "value"), line, strict=True)) for line in lines]
    assert [Lab(course_lm, name, own).setting("x", "a") for name in ("gpt2", "gpt2-xl", "other")] == ["exact", "family", "any"]
    assert Lab(course_lm, "gpt2", own).setting("x", "b") == "" and Lab(course_lm, "gpt2", own).setting("x", "c") is None
    with pytest.raises(ValueError, match=r"data/reproduce\.csv has no c for x: add a line for the model 'gpt2'"):
        Lab(course_lm, "gpt2", own).number("x", "c")
    assert [Lab.part(word, 12) for word in ("0%", "25%", "55%", "100%", "-1", "7")] == [0, 3, 6, 11, -1, 7]


def test_published_values_name_their_model_and_place_and_memory_is_marked():
    rows = read_published()
    measured = {name for one in EXPERIMENTS.values() for name in one.findings}
    assert {row["finding"] for row in rows} <= measured | {"lre.relations_above_60"}
    memory = [row["finding"] for row in rows if row["checked"] == FROM_MEMORY]
    assert memory and all(FROM_MEMORY in "".join(published_for(rows, name, "no model")) for name in memory)
    (eight,) = published_for(rows, "ioi.eight_prompts", "gpt2")
    assert eight == "3.5519 (gpt2, n = 8; TransformerLens, demo Exploratory Analysis)"
    assert [text.split()[0] for text in published_for(rows, "sae.l0", "gpt2")] == ["60"]
    assert len(published_for(rows, "sae.l0", "gpt2-xl")) == 2 and published_for(rows, "no.such", "gpt2") == []


PUBLISHED, SETTINGS = "finding,model,value,n,source,where,checked", "experiment,model,setting,value,because"


@pytest.mark.parametrize(
    ("read", "head", "line", "words"),
    [
        (
            read_published,
            PUBLISHED,
            "a.b,gpt2,1,,,where,paper",
            "line 2: a published value needs its model, its source, and where it stands",
        ),
        (read_published, PUBLISHED, "a.b,gpt2,1,,source,where,perhaps", "line 2: 'checked' is one of paper, .* not 'perhaps'"),
        (read_settings, SETTINGS, "lens,*,facts,200,", r"table.csv, line 2: say in 'because' why facts is '200'\."),
    ],
)
def test_a_line_without_a_source_or_a_reason_is_refused(read, head: str, line: str, words: str, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"{head}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read(path)


def test_findings_have_the_names_of_the_notebooks():
    notebooks = {finding.name: notebook for notebook, found in load_all().items() for finding in found}
    only_here = {"ioi.eight_prompts", "lens.poland_layer", "lens.warsaw_layer", "sae.l0", "attribution.correlation"}
    for one in EXPERIMENTS.values():
        for name in one.findings:
            assert name in only_here or notebooks[name].startswith(f"{one.section}_"), name


def test_cases_are_kept_by_their_hits_and_too_few_are_a_sentence(course_lm):
    strict, loose = Lab(course_lm, "m", []), Lab(course_lm, "m", [], n=6, keep_wrong=True)
    assert strict.kept([True, False, True], "facts") == [0, 2] and loose.kept([False, False], "facts") == [0, 1]
    assert (strict.size(40), loose.size(40), loose.size(3)) == (40, 6, 3)
    with pytest.raises(NotForThisModel, match="it gets 1 of 3 facts right, and an interval needs 2"):
        strict.kept([True, False, False], "facts")
    assert strict.fitting(["1", "x", "2"], int, "numbers") == ["1", "2"]
    with pytest.raises(NotForThisModel, match="keep the words apart in only 1 of 2 numbers"):
        strict.fitting(["1", "x"], int, "numbers")


def test_the_list_names_every_experiment_and_loads_nothing(monkeypatch, capsys):
    monkeypatch.setattr(command, "open_model", lambda *_: pytest.fail("a list needs no model"))
    assert reproduce("--list") == 0
    printed = capsys.readouterr().out
    assert all(f"{one.section}  {one.name}: " in printed for one in EXPERIMENTS.values())
