"""What tests change in the processes that they start: Python imports this first, for the folder is on their PYTHONPATH.

SECP_SPU_TEST_HOOKS names the modules of this folder that a test wants.
"""

import importlib
import os

import shared_programs

shared_programs.share()
for wanted in os.environ.get("SECP_SPU_TEST_HOOKS", "").split():
    importlib.import_module(wanted)
