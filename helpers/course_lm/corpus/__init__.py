"""The corpus: every ingredient is a function that writes one short document from the world and a random generator."""
