"""ShotStream: multi-shot video as a stream, directed while it plays (after arXiv 2603.25746)."""

import logging

__version__ = "0.1.0"

# where torchao is newer than diffusers knows, it warns at every start of files that nobody here reads
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)
