"""Downloads a repository with the reference client, for tests/suite/hub.rs.

    HF_ENDPOINT=… HF_HUB_CACHE=… python3 tests/scripts/hub_conformance.py org/name

Prints the snapshot's folder. The patterns are the files that modelkin fetches of the test's repository.
"""

import sys

from huggingface_hub import snapshot_download

print(snapshot_download(sys.argv[1], allow_patterns=["*.json", "*.safetensors"], token=False))
