"""One layer: notebooks 02a to 02c and their techniques, figures, widgets and exercises."""
