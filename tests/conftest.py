"""Before anything is imported: exact mode's pins, and local servers are asked without a proxy of this machine's."""

import os

import hypothesis

from pi_repro.provenance.determinism_env import ENVIRONMENT

os.environ.update(ENVIRONMENT)
# Of tests and of all that they start; clients read either spelling. Other hosts are reached as before.
_DIRECT = ",".join(filter(None, (os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), "127.0.0.1,localhost,::1")))
os.environ |= {"no_proxy": _DIRECT, "NO_PROXY": _DIRECT}
# A machine may stall for longer than an example may take.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
