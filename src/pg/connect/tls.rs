//! TLS as libpq does it (PostgreSQL documentation 34.19): `sslmode` decides how much of the server's certificate is verified.
//!
//! Serves tokio-postgres and the frame client alike.

use std::{
    fmt, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sha2::Digest;
use tokio::net::TcpStream;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::{
    Certificate,
    der::{
        Decode,
        asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef},
    },
};

use super::conninfo::{Conninfo, Ssl, SslMode};
use crate::error::{Error, Result};

/// The TLS side of a [`Conninfo`]; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// The files it was made from are secrets or long; neither is worth printing.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the certificates that `info` names. Nothing is read for `sslmode=disable`.
    pub fn new(info: &Conninfo) -> Result<Self> {
        let ssl = info.ssl();
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = if ssl.only_tls13 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|e| Error::failed(format!("TLS: {e}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(ssl, &provider)?));
        let mut config = match client_certificate(ssl)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| Error::usage(format!("sslcert and sslkey: {e}")))?,
            None => builder.with_no_client_auth(),
        };
        if ssl.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { config: Arc::new(config) })
    }

    /// For tokio-postgres.
    pub fn connector(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new((*self.config).clone())
    }

    /// The handshake on an open connection, and the data for channel binding (RFC 5929 `tls-server-end-point`).
    pub(in crate::pg) async fn handshake(&self, host: &str, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Vec<u8>>)> {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let stream = TlsConnector::from(self.config.clone()).connect(name, stream).await?;
        let binding = stream.get_ref().1.peer_certificates().and_then(|chain| end_point(chain.first()?));
        Ok((stream, binding))
    }
}

/// How much of a server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    /// A root that we know signed it.
    Chain,
    /// Also, it names the host that we asked for.
    ChainAndName,
}

/// libpq verifies the chain in every mode as soon as there is a root certificate, and demands one for `verify-*`.
fn verify(mode: SslMode, has_roots: bool) -> Verify {
    match mode {
        SslMode::VerifyFull => Verify::ChainAndName,
        SslMode::VerifyCa => Verify::Chain,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require if has_roots => Verify::Chain,
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Verify::Nothing,
    }
}

/// The root certificates; empty when there is nothing to verify with.
fn roots(ssl: &Ssl) -> Result<Vec<CertificateDer<'static>>> {
    let must = ssl.mode >= SslMode::VerifyCa;
    let Some(file) = ssl.rootcert.as_deref().filter(|_| ssl.mode != SslMode::Disable) else {
        if must {
            return Err(Error::usage("sslmode=verify-ca and verify-full need a root certificate")
                .hint("set sslrootcert to the file of the authority that signed the server's certificate, or sslrootcert=system"));
        }
        return Ok(Vec::new());
    };
    if file == "system" {
        let found = rustls_native_certs::load_native_certs();
        return if found.certs.is_empty() { Err(Error::usage("sslrootcert=system: this system has no root certificates")) } else { Ok(found.certs) };
    }
    if !must && !Path::new(file).exists() {
        tracing::warn!(file, "the root certificate file does not exist: the server's certificate is not verified");
        return Ok(Vec::new());
    }
    let wrong = |e: &dyn fmt::Display| Error::usage(format!("sslrootcert {file}: {e}"));
    let found: Vec<_> = CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e))?.collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"no certificate in it")) } else { Ok(found) }
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(ssl: &Ssl) -> Result<Option<ClientCertificate>> {
    let Some(cert) = ssl.cert.as_deref().filter(|_| ssl.mode != SslMode::Disable) else { return Ok(None) };
    let wrong = |e: &dyn fmt::Display| Error::usage(format!("sslcert {cert}: {e}"));
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).map_err(|e| wrong(&e))?.collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
    let key = ssl.key.as_deref().ok_or_else(|| Error::usage(format!("sslcert {cert} has no private key")).hint("set sslkey to its file"))?;
    let wrong = |e: &dyn fmt::Display| Error::usage(format!("sslkey {key}: {e}"));
    let about = std::fs::metadata(key).map_err(|e| wrong(&e))?;
    // root may share a key with a group, nobody else may (libpq's rule)
    let forbidden = if about.uid() == 0 { 0o037 } else { 0o077 };
    if about.permissions().mode() & forbidden != 0 {
        return Err(wrong(&"others can read it").hint("chmod 0600 that file"));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(&e))?;
    Ok(Some((chain, key)))
}

#[derive(Debug)]
struct Verifier {
    verify: Verify,
    /// Certificates that are trusted as they are, also when one of them is the server's own.
    trusted: Vec<CertificateDer<'static>>,
    /// None only when nothing is verified.
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(ssl: &Ssl, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let trusted = roots(ssl)?;
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(trusted.iter().cloned());
        let chain = match usable {
            0 if trusted.is_empty() => None,
            0 => return Err(Error::usage("sslrootcert has no certificate that can be used")),
            _ => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                    .build()
                    .map_err(|e| Error::usage(format!("sslrootcert: {e}")))?,
            ),
        };
        let verify = verify(ssl.mode, chain.is_some());
        Ok(Self { verify, trusted, chain, algorithms: provider.signature_verification_algorithms })
    }

    /// The chain without the name; then the name if that is asked for.
    fn check(
        &self,
        cert: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some(chain) = &self.chain else { return Err(CertificateError::UnknownIssuer.into()) };
        if self.trusted.iter().any(|known| known == cert) {
            // A self-signed certificate that is its own root is marked as an authority, which webpki takes for no server.
            within_validity(cert, now)?;
        } else {
            match chain.verify_server_cert(cert, rest, name, ocsp, now) {
                Ok(_) => return Ok(()),
                // the chain is verified before the name
                Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })) => {}
                Err(e) => return Err(e),
            }
        }
        if self.verify == Verify::Chain || common_name_fits(cert, name) {
            return Ok(());
        }
        verify_server_name(&ParsedCertificate::try_from(cert)?, name)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.verify != Verify::Nothing {
            self.check(cert, rest, name, ocsp, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(|| verify_tls12_signature(message, cert, dss, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(|| verify_tls13_signature(message, cert, dss, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    /// A signature by a certificate that nobody vouches for proves nothing. Also, webpki cannot read certificates of X.509 version 1, which
    /// `openssl x509 -req` makes and some users of PostgreSQL have.
    fn signature(&self, verify: impl FnOnce() -> Result<HandshakeSignatureValid, rustls::Error>) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.verify == Verify::Nothing { Ok(HandshakeSignatureValid::assertion()) } else { verify() }
    }
}

fn within_validity(cert: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let cert = Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
    let validity = cert.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet.into())
    } else if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// A certificate without alternative names is for the host in its common name, as in libpq.
fn common_name_fits(cert: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
    let Ok(cert) = Certificate::from_der(cert) else { return false };
    let body = &cert.tbs_certificate;
    if body.extensions.iter().flatten().any(|extension| extension.extn_id == ALTERNATIVE_NAMES) {
        return false;
    }
    let mut attributes = body.subject.0.iter().flat_map(|rdn| rdn.0.iter());
    let Some(value) = attributes.find(|attribute| attribute.oid == COMMON_NAME).map(|attribute| &attribute.value) else { return false };
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let Ok(common) = utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned())) else { return false };
    name_fits(&common, &name.to_str())
}

/// The `*` of `*.example.com` matches exactly one label.
fn name_fits(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain) && domain.contains('.'))
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// RFC 5929 `tls-server-end-point`: the certificate hashed as its signature is, where MD5 and SHA-1 give way to SHA-256.
/// None where the signature names no hash (Ed25519).
fn end_point(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let oid = Certificate::from_der(cert).ok()?.signature_algorithm.oid.to_string();
    match oid.as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => {
            Some(sha2::Sha256::digest(cert).to_vec())
        }
        // RSA and ECDSA with SHA-384, then with SHA-512
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(sha2::Sha384::digest(cert).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(sha2::Sha512::digest(cert).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_and_roots_decide_what_is_verified() {
        for (mode, without, with) in [
            (SslMode::Prefer, Verify::Nothing, Verify::Chain),
            (SslMode::Require, Verify::Nothing, Verify::Chain),
            (SslMode::VerifyCa, Verify::Chain, Verify::Chain),
            (SslMode::VerifyFull, Verify::ChainAndName, Verify::ChainAndName),
        ] {
            assert_eq!((verify(mode, false), verify(mode, true)), (without, with), "{mode:?}");
        }
    }

    #[test]
    fn files_are_needed_only_where_they_count() {
        let make = |text: &str| {
            Tls::new(&Conninfo::parse_with(text, &|name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap())
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(make("user=u sslmode=require"), Ok(()));
        assert_eq!(make("user=u sslmode=require sslrootcert=/nonexistent"), Ok(()));
        assert_eq!(make("user=u sslmode=disable sslcert=/nonexistent sslrootcert=/nonexistent"), Ok(()));
        assert!(make("user=u sslmode=verify-ca").unwrap_err().contains("need a root certificate"));
        assert!(make("user=u sslmode=verify-full sslrootcert=/nonexistent").unwrap_err().contains("/nonexistent"));
        assert!(make("user=u sslmode=require sslcert=/nonexistent").unwrap_err().contains("sslcert /nonexistent"));
    }

    #[test]
    fn common_names_have_one_label_wildcards() {
        for (pattern, host, fits) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "db", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(name_fits(pattern, host), fits, "{pattern} {host}");
        }
    }
}
