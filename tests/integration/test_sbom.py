"""The bill of materials of made-up installations, by the command that writes it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BRIDGE = """Requires-Dist: client
Provides-Extra: registry
Requires-Dist: Client[schema_registry]; extra == "registry"
Provides-Extra: cloud
Requires-Dist: signer; extra == "cloud"
"""
CLIENT = """Provides-Extra: schema-registry
Requires-Dist: client[http]; extra == "schema-registry"
Provides-Extra: http
Requires-Dist: httpx; extra == "http"
Provides-Extra: docs
Requires-Dist: sphinx; extra == "docs"
"""


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """The bridge, a client, and what the extras of both need but `signer`."""
    folder = tmp_path / "site-packages"
    metadata = {"digifinex-bridge": BRIDGE, "client": CLIENT, "httpx": "", "sphinx": ""}
    for name, about in metadata.items():
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{about}")
    return folder


def written(site_packages: Path, epoch: int = 1_700_000_000) -> dict[str, Any]:
    target = site_packages.parent / "sbom.json"
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "sbom.py", site_packages, target],
        env={"SOURCE_DATE_EPOCH": str(epoch)},
        check=True,
    )
    bill: dict[str, Any] = json.loads(target.read_text())
    return bill


def needed(bill: dict[str, Any]) -> dict[str, list[str]]:
    def name(ref: str) -> str:
        return ref.removeprefix("pkg:pypi/").removesuffix("@1.0")

    return {name(one["ref"]): [name(ref) for ref in one.get("dependsOn", [])] for one in bill["dependencies"]}


def test_what_an_extra_needs_belongs_to_the_package_that_has_the_extra(site_packages: Path) -> None:
    assert needed(written(site_packages)) == {
        "digifinex-bridge": ["client"],
        "client": ["httpx"],  # asked for by an extra of an extra; nobody asks for `docs`
        "httpx": [],
        "sphinx": [],
    }


def test_the_bridge_has_the_extras_that_are_installed(site_packages: Path) -> None:
    info = site_packages / "signer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: signer\nVersion: 1.0\n")
    assert needed(written(site_packages))["digifinex-bridge"] == ["client", "signer"]


def test_the_serial_number_is_that_of_the_packages_and_the_time(site_packages: Path) -> None:
    once, again, later = (
        written(site_packages, epoch) for epoch in (1_700_000_000, 1_700_000_000, 1_800_000_000)
    )
    assert once == again
    assert once["serialNumber"] != later["serialNumber"]
