"""Values to bytes and back. Pure: no I/O, no clock, no framework."""

from agentref.codecs.codec import ValueCodec
from agentref.codecs.decode import Source
from agentref.codecs.extension import Extension, Foreign
from agentref.codecs.screen import too_deep
from agentref.codecs.sink import Sink
from agentref.codecs.where import name_error
from agentref.codecs.wire import CODEC_ID, surely_fits

__all__ = [
    "CODEC_ID",
    "Extension",
    "Foreign",
    "Sink",
    "Source",
    "ValueCodec",
    "name_error",
    "surely_fits",
    "too_deep",
]
