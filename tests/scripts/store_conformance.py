"""Sources against servers of other makers: moto for S3, Azurite for Azure, Debian's docker-registry for OCI.

    pip install 'moto[s3,server]' boto3 azure-storage-blob; npm install azurite; apt-get install docker-registry
    cargo build --locked && python3 tests/scripts/store_conformance.py target/debug/modelkin

Puts models of the zoo into each server that is on the PATH, on this machine, and lets `modelkin` compare them in
parts with the original in its folder. Prints what it found, and fails where the relation is not the true one.
Not part of `cargo test`: the servers are heavy, and the protocols are tested there against a server of our own.
"""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parent.parent
ORIGINAL = TESTS / "zoo/llama-a"
TUNED = sorted((TESTS / "zoo/llama-a-tuned").iterdir())
FOLDER = "models/a & b"
# The key that Azurite and its maker publish for tests.
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def server(name, *arguments):
    """The running server, or None and a line that says so where it is not on the PATH."""
    if not shutil.which(name):
        print(f"skipped: no {name} on the PATH")
        yield None
        return
    process = subprocess.Popen([name, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(8)
        yield process
    finally:
        process.terminate()
        process.wait()


def compare(modelkin, model, expected, **variables):
    """The relation that an audit of the original and a model finds."""
    with tempfile.TemporaryDirectory() as kept:
        here = {"MODELKIN_DOWNLOADS": f"{kept}/d", "MODELKIN_BLOCKS": f"{kept}/b", "NO_PROXY": "127.0.0.1,localhost"}
        run = subprocess.run(
            [modelkin, "compare", ORIGINAL, model, "--json"],
            env={**os.environ, **here, **variables}, capture_output=True, text=True,
        )
    if run.returncode > 1 or not run.stdout:
        sys.exit(f"{model}: {run.stderr}")
    report = json.loads(run.stdout)
    found = report["finding"]["relation"]
    notes = [note for note in report["candidate"]["notes"] if "read in parts" in note]
    print(f"{model}: {found}; {notes[0].split(';')[0] if notes else 'not read in parts'}")
    if found != expected or not notes:
        sys.exit(f"expected {expected}, read in parts")


def s3(modelkin):
    import boto3

    with server("moto_server", "-p", "5055") as running:
        if running is None:
            return
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        client = boto3.client(
            "s3", endpoint_url="http://127.0.0.1:5055", region_name="us-east-1",
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )
        client.create_bucket(Bucket="zoo")
        for file in TUNED:
            client.upload_file(str(file), "zoo", f"{FOLDER}/{file.name}")
        # More than one part of a list.
        for i in range(1100):
            client.put_object(Bucket="zoo", Key=f"{FOLDER}/logs/{i}.png", Body=b"x")
        compare(modelkin, f"s3://zoo/{FOLDER}", "fine-tuned", AWS_ENDPOINT_URL="http://127.0.0.1:5055", **keys)


def azure(modelkin):
    from azure.storage.blob import BlobServiceClient, generate_container_sas

    options = ["--blobPort", "5057", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    with server("azurite-blob", *options) as running:
        if running is None:
            return
        endpoint = "http://127.0.0.1:5057/devstoreaccount1"
        service = BlobServiceClient(endpoint, credential=AZURITE_KEY)
        for name, access in [("closed", None), ("open", "container")]:
            container = service.create_container(name, public_access=access)
            for file in TUNED:
                container.upload_blob(f"{FOLDER}/{file.name}", file.read_bytes())
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
        sas = generate_container_sas(
            "devstoreaccount1", "closed", account_key=AZURITE_KEY, permission="rl", expiry=soon
        )
        at = {"AZURE_STORAGE_ENDPOINT": endpoint}
        compare(modelkin, f"az://open/{FOLDER}", "fine-tuned", **at)
        compare(modelkin, f"az://closed/{FOLDER}", "fine-tuned", AZURE_STORAGE_SAS_TOKEN=sas, **at)


def registry(modelkin):
    with tempfile.TemporaryDirectory() as data:
        config = pathlib.Path(data) / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {data}/blobs}}}}\nhttp: {{addr: '127.0.0.1:5056'}}\n"
        )
        with server("docker-registry", "serve", str(config)) as running:
            if running is None:
                return
            repository = "http://localhost:5056/v2/zoo/llama"
            ask = lambda method, url, body, kind: urllib.request.urlopen(
                urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
            )

            def layer(media_type, content):
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                upload = ask("POST", f"{repository}/blobs/uploads/", b"", "text/plain").headers["Location"]
                ask("PUT", f"{upload}&digest={digest}", content, "application/octet-stream")
                return {"mediaType": media_type, "digest": digest, "size": len(content)}

            weights = (TESTS / "data/gguf/llama-a-q8_0.gguf").read_bytes()
            kind = "application/vnd.oci.image.manifest.v1+json"
            manifest = {
                "schemaVersion": 2,
                "mediaType": kind,
                "config": layer("application/vnd.oci.empty.v1+json", b"{}"),
                "layers": [
                    layer("application/vnd.ollama.image.model", weights),
                    layer("application/vnd.ollama.image.params", b"{}"),
                ],
            }
            ask("PUT", f"{repository}/manifests/q8", json.dumps(manifest).encode(), kind)
            compare(modelkin, "oci:localhost:5056/zoo/llama:q8", "quantized")
            ours = {"MODELKIN_OLLAMA_REGISTRY": "http://localhost:5056", "OLLAMA_MODELS": data}
            compare(modelkin, "ollama:zoo/llama:q8", "quantized", **ours)


if __name__ == "__main__":
    for kind in [s3, azure, registry]:
        kind(sys.argv[1])
