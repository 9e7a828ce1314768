"""Moved to `songsight.models.student`. Models that version 0.1 registered with MLflow import it from here."""

from songsight.models.student import load

__all__ = ["load"]
