//! `ConnectionLimiter`: limits on the connections of one process.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::server::options::SocketOptions;
use crate::supervise::update_metric;

/// Limits connections in all, connections from one address, and handshakes per second.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    limit: Option<NonZeroUsize>,
    limit_per_address: Option<NonZeroUsize>,
    open: AtomicUsize,
    /// Empty if there is no limit. An address without connections has no entry.
    by_address: DashMap<IpAddr, usize>,
    handshakes: Option<DefaultDirectRateLimiter>,
}

/// Why a client may not open a socket now. Its response is 503 with `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The limit of connections is reached.
    #[error("too many connections")]
    Full,
    /// The limit of connections from this address is reached.
    #[error("too many connections from this address")]
    Address,
    /// The limit of handshakes per second is reached.
    #[error("too many handshakes")]
    Rate,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Closing,
}

impl Refused {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::Address => "address",
            Self::Rate => "handshakes",
            Self::Closing => "closing",
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], self.to_string()).into_response()
    }
}

impl ConnectionLimiter {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        Self {
            limit: options.connections,
            limit_per_address: options.connections_per_address,
            open: AtomicUsize::new(0),
            by_address: DashMap::new(),
            handshakes: options.handshakes_per_second.map(|limit| RateLimiter::direct(Quota::per_second(limit))),
        }
    }

    /// Returns a permit for one connection. Without an address, the limit per address does not apply.
    pub(crate) fn acquire(self: &Arc<Self>, address: Option<IpAddr>) -> Result<ConnectionPermit, Refused> {
        let acquired = self.try_acquire(address);
        if let Err(refused) = &acquired {
            update_metric(|| metrics::counter!("channel_layer_refused_total", "limit" => refused.label()).increment(1));
        }
        acquired
    }

    /// Returns the number of permits.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn try_acquire(self: &Arc<Self>, address: Option<IpAddr>) -> Result<ConnectionPermit, Refused> {
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Refused::Full)?;
        // From here on, an early return drops the permit, which releases what it holds.
        let mut permit = ConnectionPermit { limiter: self.clone(), address: None };
        if let Some((address, limit)) = address.map(network_of).zip(self.limit_per_address) {
            let mut count = self.by_address.entry(address).or_insert(0);
            if *count >= limit.get() {
                return Err(Refused::Address);
            }
            *count += 1;
            drop(count);
            permit.address = Some(address);
        }
        // Checked last, so that a refused connection does not use up a handshake.
        match &self.handshakes {
            Some(limiter) if limiter.check().is_err() => Err(Refused::Rate),
            _ => Ok(permit),
        }
    }
}

/// Returns the address that a limit counts for: the /64 of an IPv6 address, since one client has at least that many to
/// choose from.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

/// Permit for one connection; released on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    address: Option<IpAddr>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        if let Entry::Occupied(mut entry) = self.limiter.by_address.entry(address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(options: SocketOptions) -> Arc<ConnectionLimiter> {
        Arc::new(ConnectionLimiter::new(&options))
    }

    fn from(limiter: &Arc<ConnectionLimiter>, address: &str) -> Result<ConnectionPermit, Refused> {
        limiter.acquire(Some(address.parse().unwrap()))
    }

    #[test]
    fn a_dropped_permit_makes_room_for_another_connection() {
        let limiter = limiter(SocketOptions::new().max_connections(2));
        let first = limiter.acquire(None).unwrap();
        let _second = limiter.acquire(None).unwrap();
        assert_eq!(limiter.acquire(None).unwrap_err(), Refused::Full);
        drop(first);
        assert!(limiter.acquire(None).is_ok());
        assert_eq!(limiter.open(), 1);
    }

    #[test]
    fn each_address_has_a_limit_of_its_own() {
        let limiter = limiter(SocketOptions::new().max_connections_per_address(1));
        let first = from(&limiter, "10.0.0.1").unwrap();
        assert_eq!(from(&limiter, "::ffff:10.0.0.1").unwrap_err(), Refused::Address);
        let _other = from(&limiter, "10.0.0.2").unwrap();
        let _site = from(&limiter, "2001:db8::1").unwrap();
        assert_eq!(from(&limiter, "2001:db8::2").unwrap_err(), Refused::Address);
        let _other_site = from(&limiter, "2001:db8:0:1::2").unwrap();
        drop(first);
        assert!(from(&limiter, "10.0.0.1").is_ok());
    }

    #[test]
    fn dropped_permits_leave_no_counts_behind() {
        let limiter = limiter(SocketOptions::new().max_connections(10).max_connections_per_address(1));
        for _ in 0..3 {
            let acquired: Vec<_> = (0..20).map(|host| from(&limiter, &format!("10.0.0.{host}"))).collect();
            assert_eq!(acquired.iter().filter(|acquired| acquired.is_ok()).count(), 10);
        }
        assert_eq!((limiter.open(), limiter.by_address.len()), (0, 0));
    }

    #[test]
    fn handshakes_per_second_are_limited() {
        let limiter = limiter(SocketOptions::new().max_handshakes_per_second(5));
        let acquired: Vec<_> = (0..10).map(|_| limiter.acquire(None)).collect();
        assert_eq!(acquired.iter().filter(|acquired| acquired.is_ok()).count(), 5);
        assert_eq!(acquired[9].as_ref().unwrap_err(), &Refused::Rate);
        assert_eq!(limiter.open(), 5);
    }
}
