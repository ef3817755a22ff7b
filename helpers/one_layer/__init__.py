"""One layer: notebooks 02a and 02b and their techniques, figures, widgets and exercises."""
