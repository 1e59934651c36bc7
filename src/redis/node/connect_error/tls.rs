//! What went wrong when two sides of a TLS connection looked at each other's certificates.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::RedisError;
use rustls::{AlertDescription, CertificateError};

/// The fault of input or output behind `error`, if there is one.
pub(crate) fn io_error(error: &RedisError) -> Option<&io::Error> {
    let cause = error.source()?;
    // The crate shares its causes between the copies of an error.
    let shared = cause.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    shared.map_or(cause, |shared| &**shared).downcast_ref()
}

/// The fault of TLS behind `error`, if there is one.
pub(crate) fn broken(error: &RedisError) -> Option<&rustls::Error> {
    io_error(error)?.get_ref()?.downcast_ref()
}

/// Whether one side has looked at a certificate, or at its want, and has refused the other.
pub(crate) fn is_judgement(fault: &rustls::Error) -> bool {
    matches!(fault, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
}

/// What is wrong, and what to do.
pub(crate) fn words(fault: &rustls::Error) -> String {
    use AlertDescription as Alert;
    let advice = match fault {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls_ca_file, or the public authorities where it is not set, have not signed the server's certificate"
        }
        // The crate has no name for it: what `openssl req -x509` makes unless it is told otherwise.
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string() == "CaUsedAsEndEntity" =>
        {
            "the server's certificate is that of an authority (CA:TRUE), and no server's own; make it with \
             basicConstraints=critical,CA:FALSE"
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "the server wants a certificate of this program: set tls_cert_file and tls_key_file"
        }
        rustls::Error::AlertReceived(Alert::UnknownCA) => "the server does not trust the certificate in tls_cert_file",
        _ => return fault.to_string(),
    };
    format!("{fault}: {advice}")
}

/// Whether it stays until somebody changes what is configured here or there.
pub(crate) fn is_mistake(fault: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    use CertificateError as Certificate;
    match fault {
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => false,
        rustls::Error::InvalidCertificate(_) => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::AccessDenied
                | Alert::BadCertificate
                | Alert::CertificateRequired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
        ),
        _ => false,
    }
}
