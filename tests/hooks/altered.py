"""Alters one program at bob's, as a changed copy of secp_spu would; for test_oversight."""

import os

from hook import after_import


def _alter(module):
    compile_program = module.compile_program

    def altered(name, fn, inputs):
        return compile_program(name, (lambda *args: 2 * fn(*args)) if name == "head" else fn, inputs)

    module.compile_program = altered


if os.environ.get("SECP_SPU_CLUSTER_MARK", "").endswith("-bob"):
    after_import("secp_spu.runtime.program", _alter)
