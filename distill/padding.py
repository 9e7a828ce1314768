"""Moved to `songsight.audio.padding`. Models that version 0.1 registered with MLflow import it from here."""

from songsight.audio.padding import fit_length

__all__ = ["fit_length"]
