"""A cluster of neurons: notebooks 03a and 03b and their techniques, figures, widgets and exercises."""
