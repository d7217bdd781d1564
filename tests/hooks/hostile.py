"""Makes carol hostile, for test_hostile.

From her 8th message to alice on, SECP_SPU_HOSTILE says what she sends: "payload", a pickle that makes the file
FOLDER/ran where it is unpickled; or "as bob", beside her own message one in place of bob's, whose number is one below
hers. Then there is a file FOLDER/attacked; FOLDER is SECP_SPU_HOSTILE_FOLDER.
"""

import os
import pickle
import subprocess
from pathlib import Path

from hook import after_import

KIND, FOLDER = os.environ["SECP_SPU_HOSTILE"], Path(os.environ["SECP_SPU_HOSTILE_FOLDER"])
FIRST = 8


class Payload:
    def __reduce__(self):
        return subprocess.check_call, (["touch", FOLDER / "ran"],)


def turn(transport):
    push, sent = transport.PartySender._push, []

    async def push_and_attack(self, party, number, message):
        sent.append(party)
        if party == "alice" and sent.count("alice") >= FIRST:
            (FOLDER / "attacked").touch()
            if KIND == "payload":
                message = pickle.dumps(Payload())
            else:
                task, _, part = number[0].partition("#")
                await push(self, party, (f"{int(task) - 1}#{part}", number[1]), transport.encode("forged"))
        return await push(self, party, number, message)

    transport.PartySender._push = push_and_attack


if os.environ.get("SECP_SPU_CLUSTER_MARK", "").endswith("-carol"):
    after_import("secp_spu.network.transport", turn)
