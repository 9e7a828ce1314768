"""Moved to `songsight.audio.reader`. Models that version 0.1 registered with MLflow import it from here."""

from songsight.audio.reader import AudioError, open_audio, read_mono

__all__ = ["AudioError", "open_audio", "read_mono"]
