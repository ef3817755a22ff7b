"""One neuron: notebook 01 and its techniques, figures, widgets and exercises."""
