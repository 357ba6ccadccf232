"""Several graphs of one model in IR, which share one file of weights."""

from collections.abc import Mapping
from xml.etree import ElementTree

# Where each constant starts in the file, in bytes.
ALIGNED = 64


def joined(written: Mapping[str, tuple[bytes, bytes]]) -> tuple[dict[str, bytes], bytes]:
    """The graphs by name, each (IR, its own weights), as IR that reads one file of weights, and that file.

    A constant of several graphs is there once.
    """
    graphs, weights, places = dict[str, bytes](), bytearray(), dict[bytes, int]()
    for name, (text, own) in written.items():
        net = ElementTree.fromstring(text)
        for data in net.iterfind("layers/layer[@type='Const']/data"):
            start, size = int(data.get("offset", 0)), int(data.get("size", 0))
            constant = own[start : start + size]
            if constant not in places:
                weights += bytes(-len(weights) % ALIGNED)
                places[constant] = len(weights)
                weights += constant
            data.set("offset", str(places[constant]))
        graphs[name] = ElementTree.tostring(net, encoding="utf-8", xml_declaration=True)
    # A file of a bundle that holds nothing would be no tensor.
    return graphs, bytes(weights) or bytes(ALIGNED)
