//! TLS in front of a server on this machine: ends the encryption, hands one request on, sends the answer
//! back. Its certificate is for `localhost`, by the authority in `tests/data/tls`.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tls")
        .join(name)
}

/// The certificate of the authority that a client must trust.
pub fn authority() -> PathBuf {
    data("authority.pem")
}

/// The program that fetches a model, trusting these authorities and no others, with an empty folder for what
/// else it may look for.
pub fn fetching(name: &str, authority: &Path, empty: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelkin"));
    command
        .args(["fetch", name])
        .env("SSL_CERT_FILE", authority)
        .env("SSL_CERT_DIR", empty)
        .env("NO_PROXY", "localhost");
    command
}

/// Starts it before the server at `backend` (`host:port`); it ends with the process.
pub fn start(backend: &str) -> String {
    let certificate = CertificateDer::from_pem_file(data("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(data("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a key for the certificate");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let backend = backend.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, backend) = (config.clone(), backend.clone());
            // A client that does not trust us goes away; that is its own affair.
            std::thread::spawn(move || hand_on(config, stream, &backend).unwrap_or_default());
        }
    });
    format!("https://localhost:{port}")
}

fn hand_on(config: Arc<ServerConfig>, stream: TcpStream, backend: &str) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut client = StreamOwned::new(connection, stream);
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let mut server = TcpStream::connect(backend)?;
    server.write_all(&request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}
