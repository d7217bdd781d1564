"""Changes a module when it is imported, or now if it has been."""

import importlib.abc
import importlib.util
import sys


class _Hook(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self._name, self._change = name, change

    def find_spec(self, fullname, path, target=None):  # noqa: ARG002
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            self._change(module)

        spec.loader.exec_module = exec_module
        return spec


def after_import(name, change):
    """Call change(module) when the module of that name has been imported."""
    if name in sys.modules:
        change(sys.modules[name])
        return
    sys.meta_path.insert(0, _Hook(name, change))
