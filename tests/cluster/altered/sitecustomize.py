"""Alters one program at bob's, as a changed copy of secp_spu would; on PYTHONPATH in test_oversight alone."""

import importlib.abc
import importlib.util
import os
import sys

COMPILER = "secp_spu.runtime.program"


class _Alterer(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):  # noqa: ARG002
        if fullname != COMPILER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            compile_program = module.compile_program

            def altered(name, fn, inputs):
                return compile_program(name, (lambda *args: 2 * fn(*args)) if name == "head" else fn, inputs)

            module.compile_program = altered

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("SECP_SPU_CLUSTER_MARK", "").endswith("-bob"):
    sys.meta_path.insert(0, _Alterer())
