"""Letting the model speak: notebooks 04a and 04b and their techniques, figures, widgets and exercises."""
