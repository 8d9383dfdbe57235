//! TLS to Redis: rustls with ring. Certificates are read once, when the store is opened, so that a wrong file is
//! a mistake of the configuration and no connection waits for a disk.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::address::{AddressError, RedisTls, TlsCheck};

/// Reads the files and puts together what every connection uses.
pub(super) fn connector(tls: &RedisTls) -> Result<TlsConnector, AddressError> {
    // Named here instead of taken from the process, so that two stores never depend on who came first.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| AddressError::of("this build has no usable TLS", e))?;
    let trusted = || {
        let roots = roots(tls.ca_file.as_deref())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|e| AddressError::of("the trusted certificates are not usable", e))
    };
    let builder = match tls.check {
        TlsCheck::Full => builder.with_webpki_verifier(trusted()?),
        TlsCheck::AnyName => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(trusted()?))),
        TlsCheck::Nothing => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider.clone()))),
    };
    let config = match &tls.client_files {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("key", key, e))?;
            let built = builder.with_client_auth_cert(chain, key);
            built.map_err(|e| AddressError::of("our certificate and its key cannot be used", e))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What may sign a server's certificate: the file's certificates, or else what the system trusts.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, AddressError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        // One unreadable certificate among a hundred is the system's business; none at all is ours.
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match roots.is_empty() {
            true => Err(AddressError::new("this system trusts no certificates; name a file of them with ca=")),
            false => Ok(roots),
        };
    };
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| unreadable("CA certificate", file, e))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, AddressError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|e| unreadable("certificate", file, e))? {
        none if none.is_empty() => Err(AddressError::new(format!("{} has no certificate", file.display()))),
        found => Ok(found),
    }
}

fn unreadable(what: &str, file: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AddressError {
    AddressError::of(format!("cannot read the {what} {}", file.display()), source)
}

/// Accepts a trusted certificate for whatever host it was made.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // The name is what rustls looks at last, when everything else is in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts any certificate: the traffic is encrypted, to whomever.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
