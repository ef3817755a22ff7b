"""Helpers of the course: a small core, a room for each section of the lecture, and the course's own small language model.

**The rooms**

    helpers/*.py      the core: the door to models, tokens, interventions, runs, metrics, intervals, figures, widgets, exercises
    one_neuron        notebook 01: what neurons answer to and do, entities, explanations, superposition
    one_layer         notebooks 02a to 02c: directions, tasks in context, probes, sparse autoencoders
    cluster           notebooks 03a, 03b: recall, linear relations, patching, attribution, circuits
    speak             notebooks 04a, 04b: lenses, memories, edited facts, Patchscopes, two hops
    course_lm         the factory: world of facts, corpus, tokenizer, training and report card of the course's own model
    reproduce         the headline experiments on any model: ``python -m helpers.reproduce``

Beside the package stands ``teaching``, which makes and grades the assignments. Nothing imports upwards: ``course_lm`` takes nothing
but ``helpers.stats``, the core only the core and ``course_lm``, a section those and the sections before it, and nothing takes
``reproduce`` or ``teaching``. Only ``helpers.models`` imports transformer_lens.

**Layers** are counted from 0. *Layer* ``l`` means the residual stream *after* block ``l``; layer -1, "in" in tables, is the stream that
enters block 0: token and position embeddings. Two places count *before* the block, as Arditi et al. 2024 do, so that layer ``l``
is what block ``l`` reads and layer ``n_layers`` is what is unembedded: ``helpers.running.last_states``, and all of
``helpers.one_layer.directions``. Heads and neurons belong to the block of their number: head 2 of layer 4 is ``a4.2``, the MLP of layer 5
is ``m5``, a neuron is ``(layer, neuron)``.

**Places** of a model are hook points with the names of TransformerLens, which functions of ``helpers.interventions`` write:

    resid_pre, resid_post    blocks.5.hook_resid_pre, _post    [batch, pos, d_model]              the stream before, after a block
    attn_out, mlp_out        blocks.5.hook_attn_out, _mlp_out  [batch, pos, d_model]              what a block adds to the stream
    mlp_post                 blocks.5.mlp.hook_post            [batch, pos, d_mlp]                neurons, after the activation function
    head_out                 blocks.5.attn.hook_z              [batch, pos, head, d_head]         heads, before they are mixed
    head_q, head_k, head_v   blocks.5.attn.hook_q, _k, _v      [batch, pos, head, d_head]         queries, keys, values
    pattern                  blocks.5.attn.hook_pattern        [batch, head, query pos, key pos]  where heads look

**Axes** in the signatures, such as ``Float[Tensor, "layer prompt d_model"]`` (checked at every call while tests run):

    batch, row       texts of one pass of the model; rows of a tensor of tokens, filled up on the right
    prompt, text     all prompts, or texts, in the order given: one number for each is the usual result
    pos              tokens of a text; 0 is the mark of a new document, which statistics on neurons leave out; -1 is the last token
    layer, head, part     layers as above; heads of a layer; embedding, heads and MLPs as parts of a sum
    unit             entries of the last axis of a place: neurons, or dimensions of the stream
    d_model          numbers of a state of the stream (256 in the course LM)
    d_mlp, d_head    neurons of a block (1,024); numbers of a head's output
    d_vocab          tokens that the model knows (10,240); ``token`` where only some of them are meant
    d_in, d_sae, feature  what an autoencoder reads; its features
    *rest, *width    any further axes: ``[batch pos *rest]`` is what passes any place

Logits come before softmax and log-probabilities are in nats, unless bits are named; an interval is the 95 % interval ``(low, high)``.
"""
