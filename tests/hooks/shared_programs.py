"""What XLA and SPU compile serves all tests and the processes that they start.

SPU's compiler takes half a second for a layer, and many tests compile the same. A file holds what it made of a
program, and is named by all that this depends on. The audit reads each program as if it had just been compiled.
"""

import hashlib
import os
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from hook import after_import

VARIABLE = "SECP_SPU_TEST_PROGRAMS"


def share(folder=None):
    """Keep compiled programs in `folder`, in this process and those that it starts; by default, in their parent's."""
    if folder:
        os.environ[VARIABLE] = str(folder)
        for name, value in _settings_of_jax(folder).items():
            os.environ[name.upper()] = str(value)
            after_import("jax", lambda jax, name=name, value=value: jax.config.update(name, value))
    if VARIABLE in os.environ:
        after_import("jax._src.lru_cache", _write_at_once)
        after_import("spu.api", _read_or_compile)


def _settings_of_jax(folder):
    return {
        "jax_compilation_cache_dir": str(folder / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


def _write_at_once(lru_cache):
    """JAX writes a file in place, so others may read a part of it, for good if its process is killed meanwhile."""

    def put(self, key, value):
        path = Path(self.path) / f"{key}{lru_cache._CACHE_SUFFIX}"
        if not path.exists():
            _write(path, value)

    lru_cache.LRUCache.put = put


def _write(path, value):
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as made:
        made.write(value)
    Path(made.name).replace(path)


def _read_or_compile(api):
    from jaxlib import xla_client

    folder, compile_program = Path(os.environ[VARIABLE]) / "spu", api.compile
    folder.mkdir(parents=True, exist_ok=True)
    versions = sorted({found.version for found in distributions(name="spu")})

    def compiled(source, options):
        settings = {name: getattr(options, name) for name in dir(options) if not name.startswith("_")}
        facts = versions, source.ir_type, source.input_visibility, settings
        text = xla_client.XlaComputation(source.ir_txt).as_hlo_text(True)  # without the lines that it comes from
        path = folder / hashlib.sha256(f"{facts}{text}".encode()).hexdigest()
        if not path.exists():
            _write(path, compile_program(source, options))
        return path.read_bytes()

    api.compile = compiled
