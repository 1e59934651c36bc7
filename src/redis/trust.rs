//! What went wrong when two sides of a TLS connection looked at each other's certificates.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::RedisError;
use rustls::{AlertDescription, CertificateError};

/// The fault of TLS behind `error`, if there is one.
pub(super) fn broken(error: &RedisError) -> Option<&rustls::Error> {
    let cause = error.source()?;
    // The crate shares its causes between the copies of an error.
    let shared = cause.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    let cause = shared.map_or(cause, |shared| &**shared);
    cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// Whether it stays until somebody changes what is configured here or there.
pub(super) fn is_mistake(fault: &rustls::Error) -> bool {
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
