//! TLS errors: how they are found in the errors of the Redis client, classified and explained.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::RedisError;
use rustls::{AlertDescription, CertificateError};

/// The I/O error behind `error`, if there is one.
pub(crate) fn io_error(error: &RedisError) -> Option<&io::Error> {
    let cause = error.source()?;
    // The crate shares the cause between the clones of an error.
    let shared = cause.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    shared.map_or(cause, |shared| &**shared).downcast_ref()
}

/// The TLS error behind `error`, if there is one.
pub(crate) fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    io_error(error)?.get_ref()?.downcast_ref()
}

/// Whether one side has refused the certificate of the other, or its absence.
pub(crate) fn is_certificate_refusal(fault: &rustls::Error) -> bool {
    matches!(fault, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
}

/// The text of the error, with advice where there is some.
pub(crate) fn text(fault: &rustls::Error) -> String {
    use AlertDescription as Alert;
    let advice = match fault {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls_ca_file, or the public authorities where it is not set, have not signed the server's certificate"
        }
        // The crate has no variant for it. `openssl req -x509` makes such a certificate by default.
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string() == "CaUsedAsEndEntity" =>
        {
            "the server's certificate is a CA certificate (CA:TRUE); make a server certificate with \
             basicConstraints=critical,CA:FALSE"
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "the server requires a client certificate: set tls_cert_file and tls_key_file"
        }
        rustls::Error::AlertReceived(Alert::UnknownCA) => "the server does not trust the certificate in tls_cert_file",
        _ => return fault.to_string(),
    };
    format!("{fault}: {advice}")
}

/// Whether it lasts until the configuration of this program or of the server is changed.
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
