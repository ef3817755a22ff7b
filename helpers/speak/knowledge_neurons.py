"""Knowledge neurons (Dai et al. 2022, arXiv 2104.08696): which neurons a fact depends on, and what happens when they are scaled.

The score of a neuron is its integrated gradient (their equation 2): the activations ``w`` of one layer at the last token grow together
from 0 to what they are, and ``w * mean over k of dP(answer; k/m * w)/dw`` is the share of each in the probability of the answer.

    found = knowledge_neurons(model, find_fact("capital", "Poland"))
    print(found.table())
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.activations import Neuron, name
from helpers.course_lm.facts import Fact
from helpers.inputs import check_number, chosen
from helpers.interventions import Intervention, mlp_post, set_to
from helpers.metrics import first_tokens
from helpers.models import TransformerBridge
from helpers.progress import progress
from helpers.running import Suffix, activations_at, check_layers, logits_at_end, read_suffix
from helpers.speak.world_facts import paraphrases
from helpers.stats import mean_interval
from helpers.tables import table
from helpers.texts import Texts, TextsLike, as_texts

STEPS = 20  # m, the points of the path
THRESHOLD, SHARED = 0.2, 0.7  # share of the highest score of a paraphrase, share of the paraphrases (section 3.3)
N_NEURONS = 8  # for the course LM, chosen on other facts (see ``fact_edits.choose``)
PATH_ROWS = 512  # points of paths in one pass
NEAREST = 10  # a control neuron is drawn from so many that are about as active
CONTROLS = ("equally active", "any")
DOSES = {"suppressed": 0.0, "amplified": 2.0}


@dataclass(frozen=True)
class KnowledgeNeurons:
    """The scores of the neurons of some layers for one fact, and their activations, at the last token of each used paraphrase.

    A score is the share that a neuron has in the probability of the answer. Neurons of other layers have score 0.
    """

    fact: Fact
    scores: Float[Tensor, "prompt layer d_mlp"]
    active: Float[Tensor, "prompt layer d_mlp"]

    def within(self, layers: Sequence[int]) -> "KnowledgeNeurons":
        """The same with neurons of some layers only: all others have score 0."""
        kept = torch.zeros(self.scores.shape[1], 1).index_fill(0, torch.tensor(layers), 1.0)
        return replace(self, scores=self.scores * kept)

    def top(self, n: int) -> list[Neuron]:
        """The ``n`` neurons with the highest mean scores, fewer where fewer are above 0; the highest first."""
        return self._ordered(self.scores.mean(0) > 0)[:n]

    def shared(self, threshold: float = THRESHOLD, share: float = SHARED) -> list[Neuron]:
        """The rule of Dai et al. (section 3.3): ``threshold`` times the highest score or more, in ``share`` of the paraphrases or more."""
        high = self.scores >= threshold * self.scores.flatten(1).amax(1)[:, None, None]
        return self._ordered((high & (self.scores > 0)).float().mean(0) >= share)

    def _ordered(self, chosen: Bool[Tensor, "layer d_mlp"]) -> list[Neuron]:
        means, width = self.scores.mean(0).masked_fill(~chosen, -torch.inf).flatten(), self.scores.shape[-1]
        return [(at // width, at % width) for at in means.argsort(descending=True, stable=True)[: int(chosen.sum())].tolist()]

    def control(self, neurons: Sequence[Neuron], kind: str = "equally active", seed: int = 0) -> list[Neuron]:
        """As many other neurons of the same layers, drawn at random: ``equally active`` on these prompts, or ``any``.

        Raises ValueError for another kind, and where a layer has too few of them.
        """
        chosen(CONTROLS, kind, "control")
        rng, drawn, taken = Random(f"{seed} {self.fact.subject}"), [], set(neurons)
        active = {layer: self.active[:, layer].mean(0).tolist() for layer, _ in neurons}
        for layer, neuron in neurons:
            here, wanted = active[layer], active[layer][neuron]
            others = [at for at in range(len(here)) if (layer, at) not in taken and (kind == "any" or here[at] > 0)]
            if kind == "equally active":
                others = sorted(others, key=lambda at: abs(here[at] - wanted))[:NEAREST]
            if not others:
                raise ValueError(f"Layer {layer} has no further active neuron to draw as a control: take fewer neurons.")
            drawn.append((layer, rng.choice(others)))
            taken.add(drawn[-1])
        return drawn

    def table(self, n: int = 10) -> str:
        """One line for each of the ``n`` highest: its name, its mean score, and its mean activation."""
        means, active = self.scores.mean(0), self.active.mean(0)
        rows = [(name(one), means[one].item(), active[one].item()) for one in self.top(n)]
        return table({"neuron": "<10", "score": "+7.0e", "activation": "11.2f"}, rows)


def upper_layers(model: TransformerBridge) -> list[int]:
    """The last third of the layers, whose value vectors reach the answer most directly."""
    return list(range(2 * model.cfg.n_layers // 3, model.cfg.n_layers))


def knowledge_neurons(model: TransformerBridge, fact: Fact, layers: Sequence[int] | None = None, steps: int = STEPS) -> KnowledgeNeurons:
    """The scores of all neurons of some layers (``None``: the last third) for one fact, from the paraphrases that are used."""
    return knowledge_neurons_of(model, [fact], layers, steps)[0]


def knowledge_neurons_of(
    model: TransformerBridge, facts: Sequence[Fact], layers: Sequence[int] | None = None, steps: int = STEPS
) -> list[KnowledgeNeurons]:
    """The same for many facts, prompts of the same length together. Raises ValueError if there is no fact."""
    if not facts:
        raise ValueError("There is no fact: give at least one.")
    asked = [(at, prompt) for at, fact in enumerate(facts) for prompt in paraphrases(fact)[0]]
    prompts, number = [prompt for _, prompt in asked], torch.tensor([at for at, _ in asked])
    answers = first_tokens(model, prompts, [facts[at].object for at, _ in asked])
    scores, active = integrated_gradients(model, prompts, answers, layers, steps)
    return [KnowledgeNeurons(fact, scores[number == at], active[number == at]) for at, fact in enumerate(facts)]


Scores = Float[Tensor, "prompt layer d_mlp"]


def integrated_gradients(
    model: TransformerBridge, prompts: TextsLike, answers: Int[Tensor, "prompt"], layers: Sequence[int] | None = None, steps: int = STEPS
) -> tuple[Scores, Scores]:
    """The share of every neuron at the last token in the probability of the answer, and its activation there.

    The scores of a layer add up to what all its neurons there do to the probability, the better the more steps. The tokens before are
    read once, and only the blocks from the layer on are run. Raises ValueError for unknown layers, and fewer steps than one.
    """
    check_number("steps says how many points of the path to take", steps)
    chosen = check_layers(model, upper_layers(model) if layers is None else layers, first=0)
    texts = as_texts(model, prompts)
    active = torch.zeros(len(texts), model.cfg.n_layers, model.cfg.d_mlp)
    active[:, chosen] = activations_at(model, texts, [mlp_post(layer) for layer in chosen])[:, :, 0].transpose(0, 1)
    scores = torch.zeros_like(active)
    with progress(total=len(texts), desc="prompts") as bar:
        for length in texts.lengths.unique().tolist():
            for rows in (texts.lengths == length).nonzero().flatten().split(max(1, PATH_ROWS // steps)):
                suffix = read_suffix(model, texts.tokens[rows, :length], length - 1, chosen)
                for layer in chosen:
                    scores[rows, layer] = _path_scores(model, suffix, layer, active[rows, layer], answers[rows], steps)
                bar.update(len(rows))
    return scores, active


def _path_scores(
    model: TransformerBridge, suffix: Suffix, layer: int, w: Float[Tensor, "prompt d_mlp"], answers: Int[Tensor, "prompt"], steps: int
) -> Float[Tensor, "prompt d_mlp"]:
    """The integrated gradients of the neurons of one layer; all points of all paths are run together."""
    rows = torch.arange(len(w)).repeat(steps)
    fractions = torch.arange(1, steps + 1).repeat_interleave(len(w))[:, None] / steps
    path = (fractions * w[rows]).requires_grad_()
    with torch.enable_grad():
        logits = suffix.logits(model, layer, rows, torch.full_like(rows, suffix.start), set_to(mlp_post(layer), path[:, None]))
        probs = logits.softmax(-1)[torch.arange(len(rows)), answers[rows].to(logits.device)]
        gradients = torch.autograd.grad(probs.sum(), path)[0]
    return w * gradients.unflatten(0, (steps, len(w))).mean(0)


@dataclass(frozen=True)
class Scaled:
    """The probability of the answer of every prompt, as it is and while some neurons of its fact are multiplied by a number."""

    names: tuple[str, ...]
    before: Float[Tensor, "prompt"]
    after: Float[Tensor, "condition prompt"]
    fact: Int[Tensor, "prompt"]
    used: Bool[Tensor, "prompt"]

    def change(self, condition: str, used: bool = True) -> Float[Tensor, "fact"]:
        """By which share the probability changes (-0.3: it is 30 % lower), the mean over each fact's prompts, used or held out."""
        return self._by_fact((self.after[self._at(condition)] - self.before) / self.before, used)

    def log_odds(self, condition: str, used: bool = True) -> Float[Tensor, "fact"]:
        """The change of the log-odds ``log P - log(1 - P)`` in nats, which does not stop at a probability of 1."""
        before, after = (torch.logit(p.double(), eps=1e-7).float() for p in (self.before, self.after[self._at(condition)]))
        return self._by_fact(after - before, used)

    def _at(self, condition: str) -> int:
        return self.names.index(chosen(self.names, condition, "condition"))

    def _by_fact(self, values: Float[Tensor, "prompt"], used: bool) -> Float[Tensor, "fact"]:
        chosen = self.used if used else ~self.used
        return torch.stack([values[chosen & (self.fact == at)].mean() for at in self.fact.unique()])

    def table(self) -> str:
        """One line for each condition: the change of the probability in percent with its interval, of held-out prompts, of log-odds."""
        rows = []
        for condition in self.names:
            own, other, odds = self.change(condition), self.change(condition, used=False), self.log_odds(condition)
            low, high = mean_interval(own)
            rows.append((condition, own.mean().item(), f"  [{low:+.1%}, {high:+.1%}]", other.mean().item(), odds.mean().item()))
        columns = {"condition": "<26", "P(answer)": "+10.1%", "  95 % interval": "<18", "held out": "+8.1%", "log-odds": "+10.2f"}
        return table(columns, rows)


def scale_neurons(model: TransformerBridge, found: Sequence[KnowledgeNeurons], n: int = N_NEURONS, draws: int = 1) -> Scaled:
    """Suppresses (0) and amplifies (2) each fact's neurons at the last token of its prompts, used and held out (Dai et al., section 4).

    ``n``: so many neurons with the highest scores. The control are as many other neurons that are equally active: the mean probability
    over so many ``draws`` of them.
    """
    sides = [paraphrases(one.fact) for one in found]
    asked = [(at, prompt, side is used) for at, (used, held) in enumerate(sides) for side in (used, held) for prompt in side]
    numbers, prompts, used = zip(*asked, strict=True)
    answers = first_tokens(model, prompts, [found[at].fact.object for at in numbers])
    own = [one.top(n) for one in found]
    others = [[one.control(some, seed=seed) for one, some in zip(found, own, strict=True)] for seed in range(draws)]
    texts, fact = as_texts(model, prompts), torch.tensor(numbers)
    after = {
        f"{what}{whose}": torch.stack([_scaled_probs(model, texts, answers, fact, neurons, factor) for neurons in drawn]).mean(0)
        for whose, drawn in (("", [own]), (", control", others))
        for what, factor in DOSES.items()
    }
    before = _scaled_probs(model, texts, answers, fact, own, 1.0)
    return Scaled(tuple(after), before, torch.stack(list(after.values())), fact, torch.tensor(used))


def _scaled_probs(
    model: TransformerBridge,
    texts: Texts,
    answers: Int[Tensor, "prompt"],
    fact: Int[Tensor, "prompt"],
    neurons: Sequence[Sequence[Neuron]],
    factor: float,
) -> Float[Tensor, "prompt"]:
    """The probability of each answer while the neurons of its fact are multiplied by a factor at the last token."""
    factors = torch.ones(len(neurons), model.cfg.n_layers, model.cfg.d_mlp)
    for number, some in enumerate(neurons):
        for layer, neuron in some:
            factors[number, layer, neuron] = factor

    def scale(rows: Int[Tensor, "batch"]) -> list[Intervention]:
        own, ends = factors[fact[rows]], texts.lengths[rows] - 1
        layers = (own != 1).any(-1).any(0).nonzero().flatten().tolist()
        return [Intervention(mlp_post(at), lambda old, pick, by=own[:, at, None]: old * by.to(old), pos=ends) for at in layers]

    return logits_at_end(model, texts, each=scale).softmax(-1).cpu()[torch.arange(len(texts)), answers]
