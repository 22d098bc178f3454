"""ShotStream: multi-shot video as a stream, directed while it plays (after arXiv 2603.25746)."""

__version__ = "0.1.0"
