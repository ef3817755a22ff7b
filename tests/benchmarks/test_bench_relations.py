"""How fast the slopes of a relation are computed, beside one backward pass for each output coordinate: `make bench`."""

from collections.abc import Callable

import torch
from bench_tools import one_thread
from jaxtyping import Float
from pytest_benchmark.fixture import BenchmarkFixture
from test_bench_models import folder, seconds
from test_bench_neurons import beside, model, record_ratio

from helpers.cluster.linear_relations import fit_lre, fit_lre_layers, jacobians, subject_positions
from helpers.cluster.relations import RelationData, course_relations
from helpers.interventions import Intervention, intervene, resid_post
from helpers.models import TransformerBridge
from helpers.prediction import tokenize

__all__ = ["folder", "model", "one_thread"]  # the fixtures

COORDINATES = 24  # of the naive loop that are timed, and multiplied by what is missing
NAIVE_LIMIT = 0.1  # at most: our time as a share of the naive loop's
RELATIONS, LAYER = 16, 1  # fitted from 8 subjects each; some 15 seconds
PRODUCTS_LIMIT = 2.5  # at most: the time of these fits as a multiple of the matrix products that no backward pass can do without
LAYERS_LIMIT = 1.5  # at most: the time for all layers as a multiple of that for the lowest one


def eight(model: TransformerBridge) -> list[RelationData]:
    """The first subjects of each of 16 relations, known or not: that makes no difference to the time."""
    return [data.take(range(8)) for data in list(course_relations().values())[:RELATIONS]]


def naive(model: TransformerBridge, data: RelationData, layer: int, n: int) -> Float[torch.Tensor, "subject n d_in"]:
    """The first ``n`` rows of each Jacobian: for each a pass forward through the whole model, and one back."""
    found = []
    for prompt, pos in zip(data.prompts, subject_positions(model, data).tolist(), strict=True):
        tokens = tokenize(model, prompt)[None]
        found.append(torch.stack([one_row(model, tokens, pos, layer, number) for number in range(n)]))
    return torch.stack(found)


def one_row(model: TransformerBridge, tokens: torch.Tensor, pos: int, layer: int, number: int) -> Float[torch.Tensor, "d_in"]:
    """The gradient of one output coordinate."""
    seen: dict[int, torch.Tensor] = {}

    def keep(at: int) -> Callable[[torch.Tensor, object], torch.Tensor]:
        return lambda value, pick: seen.setdefault(at, value)

    top = model.cfg.n_layers - 1
    with torch.enable_grad(), intervene(model, *(Intervention(resid_post(at), keep(at)) for at in {layer, top})):
        model(tokens)
        return torch.autograd.grad(seen[top][0, -1, number], seen[layer])[0][0, pos]


def test_jacobians_beside_a_naive_loop(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    data, layer = course_relations(["capital"])["capital"].take(range(8)), 1
    found, rows = jacobians(model, data, [layer])[0], naive(model, data, layer, COORDINATES)
    assert torch.allclose(found[:, :COORDINATES], rows, atol=1e-4)
    ratio = beside(benchmark, lambda: jacobians(model, data, [layer]), lambda: naive(model, data, layer, COORDINATES), rounds=3)
    ratio *= COORDINATES / model.cfg.d_model
    record_ratio(benchmark, ratio_to_naive=ratio)
    assert ratio <= NAIVE_LIMIT


def products(model: TransformerBridge, data: RelationData) -> None:
    """The matrix products of the backward passes alone: each weight of a block once for each coordinate, subject and token from it on."""
    width = model.cfg.d_model
    rest = sum(len(tokenize(model, prompt)) for prompt in data.prompts) - int(subject_positions(model, data).sum())
    upstream, weight = torch.ones(width * rest, width), torch.ones(width, 4 * width)
    for _ in range(3 * (model.cfg.n_layers - 1 - LAYER)):  # 12 width^2 weights in a block
        upstream @ weight


def test_fits_of_many_relations(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    datas, times = eight(model), [0.0, 0.0]
    fit_lre(model, datas[0], LAYER)  # to warm up
    for data in datas:  # in turns
        times[0] += seconds(lambda data=data: fit_lre(model, data, LAYER))
        times[1] += seconds(lambda data=data: products(model, data))
    benchmark.pedantic(lambda: fit_lre(model, datas[0], LAYER), rounds=1)
    record_ratio(benchmark, seconds=times[0], ratio_to_products=times[0] / times[1])
    assert times[0] <= PRODUCTS_LIMIT * times[1]


def test_all_layers_in_the_time_of_one(benchmark: BenchmarkFixture, model: TransformerBridge) -> None:
    data = course_relations(["capital"])["capital"].take(range(8))
    every = range(model.cfg.n_layers)
    ratio = beside(benchmark, lambda: fit_lre_layers(model, data, every), lambda: fit_lre(model, data, 0), rounds=3)
    record_ratio(benchmark, ratio_to_one_layer=ratio)
    assert ratio <= LAYERS_LIMIT
