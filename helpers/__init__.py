"""Helpers of the course: one module for each technique, plus the course's own small language model."""
