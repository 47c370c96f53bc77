"""XML parts of archives, without anything that XML could load from elsewhere."""

from __future__ import annotations

import zipfile

from lxml import etree

from wireroom_rag.extraction.archives import damaged, read_entry


def read_xml(archive: zipfile.ZipFile, name: str) -> etree._Element:
    """One entry as XML: no entities, no document type, nothing fetched."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(read_entry(archive, name), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise damaged() from error
