#!/usr/bin/env bash
# The authority and the certificate of the hub that tests run on this machine. The authority's key is
# thrown away and the server's key protects nothing: it is trusted by one test alone.
set -euo pipefail
cd "$(dirname "$0")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
  -subj "/CN=modelkin test authority" -keyout authority.key -out authority.pem \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
  -subj "/CN=localhost" -keyout server.key -out server.csr
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 36500 \
  -out server.pem -extfile <(printf '%s\n' "subjectAltName=DNS:localhost" "basicConstraints=CA:FALSE" \
    "extendedKeyUsage=serverAuth")
rm -f authority.key authority.srl server.csr
