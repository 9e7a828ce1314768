"""Which files are recordings, by their names. Apart from the decoders, so that a listing needs none of them."""

from __future__ import annotations

# libsndfile's: uncompressed, FLAC, Ogg (Vorbis, Opus, FLAC), MP3
_SOUNDFILE_ENDINGS = "wav wave bwf rf64 w64 aif aiff aifc au caf flac ogg oga opus mp3"
# PyAV's: AAC, WMA, WavPack and others, and video for its sound
_PYAV_ENDINGS = "m4a m4b aac wma wv ape tta amr ac3 mp4 m4v mov 3gp mkv mka webm avi flv"
AUDIO_EXTENSIONS: frozenset[str] = frozenset(f"{_SOUNDFILE_ENDINGS} {_PYAV_ENDINGS}".split())
"""The file endings, lower-case and without the dot, that songsight takes for recordings."""


def is_audio_path(path: str) -> bool:
    """Whether a path or URL ends like a recording. macOS's `._name.wav` companions are none."""
    name = path.rstrip("/").rsplit("/", 1)[-1]
    return not name.startswith("._") and "." in name and name.rsplit(".", 1)[-1].lower() in AUDIO_EXTENSIONS
