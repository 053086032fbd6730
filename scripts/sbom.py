"""Write the bill of materials of what the bridge is installed with: `sbom.py SITE_PACKAGES FILE`.

It is CycloneDX 1.6 in JSON: the bridge, and every package beside it with version, licence and dependencies.
What is below, Python itself and the packages of a base image, is not in it. The same packages give the same
bytes if SOURCE_DATE_EPOCH is set; the serial number is that of the packages and the time.
"""

import argparse
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement

BRIDGE = "digifinex-bridge"
_OSI = "License :: OSI Approved :: "


def document(site_packages: Path) -> str:
    """Return the bill of materials of what is installed in a directory.

    Raises:
        LookupError: the bridge is not.
    """
    installed = {_normal(one.name): one for one in distributions(path=[str(site_packages)])}
    if BRIDGE not in installed:
        raise LookupError(f"{BRIDGE} is not installed in {site_packages}")
    components = {name: _component(name, one) for name, one in sorted(installed.items())}
    time = _time()
    seed = " ".join([time.isoformat(), *(str(one.purl) for one in components.values())])
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, seed),
        metadata=BomMetaData(component=components[BRIDGE], timestamp=time),
        components=[one for name, one in components.items() if name != BRIDGE],
    )
    for name, needed in _needed(installed).items():
        bom.register_dependency(components[name], [components[other] for other in sorted(needed)])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def _component(name: str, one: Distribution) -> Component:
    purl = PackageURL("pypi", name=name, version=one.version)
    return Component(
        name=name,
        version=one.version,
        type=ComponentType.APPLICATION if name == BRIDGE else ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        description=one.metadata["Summary"],
        licenses=list(_licences(one)),
    )


def _licences(one: Distribution) -> Iterable[License]:
    """Return the licences of a package, as it states them itself."""
    make = LicenseFactory()
    texts = one.metadata.get_all("License-Expression")
    if not texts:
        classifiers = one.metadata.get_all("Classifier") or []
        texts = [text.removeprefix(_OSI) for text in classifiers if text.startswith(_OSI)]
    if not texts:
        texts = [text.strip() for text in one.metadata.get_all("License") or [] if "\n" not in text.strip()]
    # CycloneDX has either one expression or any number of names.
    return [make.make_from_string(texts[0])] if len(texts) == 1 else [make.make_with_name(t) for t in texts]


def _needed(installed: Mapping[str, Distribution]) -> dict[str, set[str]]:
    """Return which of the installed packages each of them needs, by name.

    What an extra needs counts if a package here asks for the extra. No package asks for those of the bridge:
    it has an extra if all that the extra names is installed.
    """
    needed: dict[str, set[str]] = {name: set() for name in installed}
    bridge = installed[BRIDGE]
    extras = [
        extra
        for extra in bridge.metadata.get_all("Provides-Extra") or []
        if all(_normal(one.name) in installed for one in _requirements(bridge, extra))
    ]
    waiting = [(name, "") for name in installed] + [(BRIDGE, extra) for extra in extras]
    done: set[tuple[str, str]] = set()
    while waiting:
        name, extra = asked = waiting.pop()
        if asked in done:
            continue
        done.add(asked)
        for requirement in _requirements(installed[name], extra):
            if (other := _normal(requirement.name)) in installed:
                needed[name].add(other)
                waiting += [(other, wanted) for wanted in requirement.extras]
    for name, others in needed.items():
        others.discard(name)  # an extra may be made of other extras of its package
    return needed


def _requirements(one: Distribution, extra: str) -> Iterable[Requirement]:
    """Return what a package needs here with one of its extras, or without any if that is empty."""
    for text in one.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _time() -> datetime:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site_packages", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.file.write_text(document(arguments.site_packages))
