//! Outages as the consumers of a reader see them: which fetch loops fail, and when a call reports it.

pub(crate) mod failures;
pub(crate) mod reports;
