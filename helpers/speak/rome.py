"""ROME, rank-one model editing (Meng et al. 2022, arXiv 2202.05262): one change of one MLP writes a new answer at the subject's last token.

The MLP's output weights are seen as an associative memory, ``W k = v`` (section 3.1). The key ``k*`` is what the neurons are where the
subject ends; the value ``v*`` is found by gradient, so that the new answer is said; and the smallest change of ``W`` by which ``k*`` gives
``v*`` while other keys, with second moment ``C``, give what they gave, has rank one (equation 2).

    moment = second_moment(model, ROME_LAYER, held_out_texts(model, 300))
    asked = edit_prompts(model, known_facts(model, 12), start=ROME_LAYER)
    print(judge_edits(model, asked, [edit_rank_one(model, one.fact, one.new, moment) for one in asked]).table())
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.activations import scan
from helpers.course_lm.facts import Fact
from helpers.interventions import add, intervene, mlp_out, mlp_post, record, resid_pre, unembed_only_at
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge, run_from
from helpers.prediction import token_span
from helpers.speak.fact_edits import Update
from helpers.speak.world_facts import paraphrases
from helpers.texts import Texts, as_texts

ROME_LAYER = 6  # of 3, 4, 5 and 6 the one with the highest score on facts about other subjects, as for ``fact_edits.PLUS``
ROME_STEPS = 30
ROME_RATE = 0.1  # of 0.1, 0.2 and 0.3 the best on the same facts
ROME_ENOUGH = 0.9  # probability of the new answer after every used paraphrase at which its value is good enough


def second_moment(model: TransformerBridge, layer: int, texts: Texts, ridge: float = 1e-2) -> Float[Tensor, "d_mlp d_mlp"]:
    """``C``: the mean of ``k k^T`` over the tokens of some texts, ``k`` the activations of a layer (Meng et al., section 3.1).

    ``ridge`` times its mean diagonal is added to the diagonal, so that neurons that are never active do no harm.
    """
    total = torch.zeros(model.cfg.d_mlp, model.cfg.d_mlp, dtype=torch.float64)
    for batch in scan(model, texts, [layer]):
        keys = batch.activations[layer][batch.mask].float()
        total += (keys.T @ keys).cpu()
    moment = total / texts.n_tokens
    return (moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)).float()


@torch.no_grad()
def edit_rank_one(
    model: TransformerBridge, fact: Fact, new: str, moment: Float[Tensor, "d_mlp d_mlp"], layer: int = ROME_LAYER, steps: int = ROME_STEPS
) -> list[Update]:
    """The update that writes a new answer to a fact at the last token of its subject; ``moment`` is the layer's (``second_moment``).

    The key is the mean over the used paraphrases.
    """
    prompts = paraphrases(fact)[0]
    starts = [prompt.lower().rindex(fact.subject.lower()) for prompt in prompts]
    ends = [token_span(model, prompt, at, at + len(fact.subject))[-1] for prompt, at in zip(prompts, starts, strict=True)]
    texts, places = as_texts(model, prompts), torch.tensor(ends)
    neurons = record(model, texts.tokens.to(model.cfg.device), mlp_post(layer))[mlp_post(layer)]
    key = neurons[torch.arange(len(texts)), places].float().mean(0)
    answers = first_tokens(model, prompts, [new] * len(prompts))
    change = rank_one(key, missing_value(model, texts, places, answers, layer, steps), moment)
    return [Update(layer, torch.arange(model.cfg.d_mlp), change)]


def missing_value(
    model: TransformerBridge, texts: Texts, places: Int[Tensor, "prompt"], answers: Int[Tensor, "prompt"], layer: int, steps: int
) -> Float[Tensor, "d_model"]:
    """``v* - W k*``: what has to be added to the MLP's output at one place of each prompt for all to be answered so.

    Adam on the negative log-likelihood (section 3.1), without the paper's penalty for what else the subject is; it stops when every
    answer has ``ROME_ENOUGH``.
    """
    stream, rows = record(model, texts.tokens.to(model.cfg.device), resid_pre(layer))[resid_pre(layer)], torch.arange(len(texts))
    missing = torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True)
    adam = torch.optim.Adam([missing], lr=ROME_RATE)
    for _ in range(steps):
        with torch.enable_grad(), intervene(model, add(mlp_out(layer), missing, pos=places), unembed_only_at(texts.last_positions(1))):
            logp = run_from(model, stream, layer)[:, 0].log_softmax(-1)[rows, answers.to(stream.device)]
            missing.grad = torch.autograd.grad(-logp.sum(), missing)[0]
        if logp.exp().min() >= ROME_ENOUGH:
            break
        adam.step()
    return missing.detach()


def rank_one(
    key: Float[Tensor, "d_mlp"], missing: Float[Tensor, "d_model"], moment: Float[Tensor, "d_mlp d_mlp"]
) -> Float[Tensor, "d_mlp d_model"]:
    """What to add to the value vectors so that ``key`` gives ``missing`` more, and keys ``k`` with ``k C^-1 key = 0`` give what they gave.

    Meng et al., equation 2: ``(v* - W k*) (C^-1 k*)^T / (k*^T C^-1 k*)``, here transposed. Raises ValueError for a key of 0.
    """
    if not key.norm() > 0:
        raise ValueError("No neuron of this layer is active at the subject, so it has no key to write to: choose another layer.")
    key, missing = key.double().cpu(), missing.double().cpu()
    towards = torch.linalg.solve(moment.double(), key)
    return (torch.outer(towards, missing) / (key @ towards)).float()
