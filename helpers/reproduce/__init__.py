"""The headline experiments of the lessons on any model, without a notebook, beside the course LM and what was published.

    python -m helpers.reproduce --model gpt2
    python -m helpers.reproduce --model EleutherAI/pythia-410m --section 02a --device-map auto --dtype bfloat16

``lab.py`` holds what an experiment gets, ``experiments.py`` the experiments, ``identities.py`` what must hold in every model by
mathematics, ``machine.py`` devices, memory and time, ``results.py`` the file of results and the table. Settings that differ between
models stand in ``data/reproduce.csv``, published values in ``data/published.csv``, prompts in ``data/prompts/reproduce.json``.
"""
