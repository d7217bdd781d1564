"""The releases of SPU that secp_spu works with, and what differs between them: no other module knows.

What the audit relies on is the same in both: SPU's C++ in `src/libspu/device`, `kernel`, `core` and `mpc` has no
differing line. What differs:

- The compiler of 0.10 prints `pphlo.dot` for more of the products that 0.9.5 prints as `pphlo.dot_general`.
- The wheels of 0.9.5 are debug builds: they are slower, and under ABY3 they send more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from secp_spu.errors import ConfigError


@dataclass(frozen=True)
class SpuRelease:
    """A release of SPU that secp_spu was tested with.

    Attributes:
        version: of the package spu.
        jax: the version of JAX that this release compiles programs of; SPU fails to import with another.
        lock: the file of all versions that were tested with it.
        secretflow: whether there is a SecretFlow for it, which `cluster:` needs.
        debugging: whether the wheels are debug builds (without NDEBUG). Under ABY3 these add a fresh sharing of zero to
            every public value that becomes a share: each party sends 8 bytes an element, in one message (SPU's
            `mpc/aby3/arithmetic.cc`, ENABLE_MASK_DURING_ABY3_P2A).
    """

    version: str
    jax: str
    lock: str
    secretflow: bool
    debugging: bool


RELEASES: Mapping[str, SpuRelease] = MappingProxyType(
    {
        release.version: release
        for release in (
            SpuRelease("0.9.5", jax="0.4.34", lock="requirements/core.txt", secretflow=True, debugging=True),
            SpuRelease(
                "0.10.0.dev20251211", jax="0.8.0", lock="requirements/spu10.txt", secretflow=False, debugging=False
            ),
        )
    }
)
"""The releases by version."""


def installed_release() -> SpuRelease:
    """The release that is installed. Imports neither SPU nor JAX.

    Raises: ConfigError if secp_spu does not know it, or if JAX has another version than the release needs.
    """
    release = RELEASES.get(found := _installed("spu"))
    if release is None:
        locks = " or ".join(f"{release.version} ({release.lock})" for release in RELEASES.values())
        raise ConfigError(f"spu {found} is installed, but secp_spu works with {locks}: install one of these locks")
    if (jax := _installed("jax")) != release.jax:
        raise ConfigError(
            f"jax {jax} is installed, but spu {release.version} works with jax {release.jax}: install {release.lock}"
        )
    return release


def require_secretflow() -> None:
    """Check that the installed release works with SecretFlow.

    Raises: ConfigError if it does not.
    """
    if not (release := installed_release()).secretflow:
        names = ", ".join(known.version for known in RELEASES.values() if known.secretflow)
        raise ConfigError(
            f"spu {release.version} is installed, but `cluster:` needs SecretFlow, which works with spu {names}: "
            "install requirements/dev.txt into another environment, or run without `cluster:`"
        )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"
