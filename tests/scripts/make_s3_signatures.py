"""Signatures of S3 requests by botocore, for the test in src/source/buckets/sign.rs.

    python3 tests/scripts/make_s3_signatures.py      # botocore 1.44.8

Prints the signature of a GET with a session token and escaped characters at a fixed time.
"""

import datetime

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

NOW = datetime.datetime(2013, 5, 24, tzinfo=datetime.timezone.utc)
auth.get_current_datetime = lambda remove_tzinfo=True: NOW.replace(tzinfo=None)

keys = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "session/token==")
for url in [
    "http://localhost:9000/bucket/a%20b/m%2B%C3%A9.gguf",
    "http://localhost:9000/bucket?continuation-token=a%2Fb%3D&list-type=2&prefix=a%20b%2F",
]:
    request = AWSRequest("GET", url, headers={"x-amz-content-sha256": auth.EMPTY_SHA256_HASH})
    auth.S3SigV4Auth(keys, "s3", "eu-west-1").add_auth(request)
    print(url, request.headers["X-Amz-Date"], request.headers["Authorization"].rsplit("=", 1)[1])
    print("   ", request.headers["Authorization"])
