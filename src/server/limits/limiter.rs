//! Who may open a socket. Each that may holds an [`Admission`], and what it counts for is free again when that is gone.

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

/// Counts the sockets of this process against the limits.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: Option<NonZeroUsize>,
    limit_per_address: Option<NonZeroUsize>,
    open: AtomicUsize,
    /// Only counted where there is a limit. An address without sockets has no entry.
    by_address: DashMap<IpAddr, usize>,
    handshakes: Option<DefaultDirectRateLimiter>,
}

/// Why a client may not open a socket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There are as many sockets as there may be.
    #[error("there are too many connections")]
    Full,
    /// There are as many sockets from this address as there may be.
    #[error("there are too many connections from this address")]
    Address,
    /// There are too many handshakes in this second.
    #[error("there are too many handshakes")]
    Pace,
    /// The server is closing.
    #[error("the server is closing")]
    Closing,
}

impl Refused {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::Address => "address",
            Self::Pace => "handshakes",
            Self::Closing => "closing",
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], self.to_string()).into_response()
    }
}

impl Gate {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        Self {
            limit: options.connections,
            limit_per_address: options.connections_per_address,
            open: AtomicUsize::new(0),
            by_address: DashMap::new(),
            handshakes: options.handshakes_per_second.map(|limit| RateLimiter::direct(Quota::per_second(limit))),
        }
    }

    /// Lets a client in. One whose address is unknown counts for no address.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admission, Refused> {
        let admitted = self.try_admit(address);
        if let Err(refused) = &admitted {
            metrics::counter!("channel_layer_refused_total", "limit" => refused.label()).increment(1);
        }
        admitted
    }

    /// How many are in.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn try_admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admission, Refused> {
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Refused::Full)?;
        // From here on the drop gives everything back.
        let mut admission = Admission { gate: self.clone(), address: None };
        if let Some((address, limit)) = address.map(site).zip(self.limit_per_address) {
            let mut count = self.by_address.entry(address).or_insert(0);
            if *count >= limit.get() {
                return Err(Refused::Address);
            }
            *count += 1;
            drop(count);
            admission.address = Some(address);
        }
        // Last, so that who is refused otherwise takes nothing from the others.
        match &self.handshakes {
            Some(limiter) if limiter.check().is_err() => Err(Refused::Pace),
            _ => Ok(admission),
        }
    }
}

/// One client has at least a /64 of IPv6 to choose addresses from.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}

/// That a client is in. Dropping it lets another one in.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        if let Entry::Occupied(mut entry) = self.gate.by_address.entry(address) {
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

    fn gate(options: SocketOptions) -> Arc<Gate> {
        Arc::new(Gate::new(&options))
    }

    fn from(gate: &Arc<Gate>, address: &str) -> Result<Admission, Refused> {
        gate.admit(Some(address.parse().unwrap()))
    }

    #[test]
    fn a_limit_on_all_is_free_again_when_one_leaves() {
        let gate = gate(SocketOptions::new().max_connections(2));
        let first = gate.admit(None).unwrap();
        let _second = gate.admit(None).unwrap();
        assert_eq!(gate.admit(None).unwrap_err(), Refused::Full);
        drop(first);
        assert!(gate.admit(None).is_ok());
        assert_eq!(gate.open(), 1);
    }

    #[test]
    fn an_address_has_a_limit_of_its_own() {
        let gate = gate(SocketOptions::new().max_connections_per_address(1));
        let first = from(&gate, "10.0.0.1").unwrap();
        assert_eq!(from(&gate, "::ffff:10.0.0.1").unwrap_err(), Refused::Address);
        let _other = from(&gate, "10.0.0.2").unwrap();
        let _site = from(&gate, "2001:db8::1").unwrap();
        assert_eq!(from(&gate, "2001:db8::2").unwrap_err(), Refused::Address);
        let _other_site = from(&gate, "2001:db8:0:1::2").unwrap();
        drop(first);
        assert!(from(&gate, "10.0.0.1").is_ok());
    }

    #[test]
    fn nothing_is_left_of_those_who_left() {
        let gate = gate(SocketOptions::new().max_connections(10).max_connections_per_address(1));
        for _ in 0..3 {
            let admitted: Vec<_> = (0..20).map(|host| from(&gate, &format!("10.0.0.{host}"))).collect();
            assert_eq!(admitted.iter().filter(|admitted| admitted.is_ok()).count(), 10);
        }
        assert_eq!((gate.open(), gate.by_address.len()), (0, 0));
    }

    #[test]
    fn handshakes_have_a_pace() {
        let gate = gate(SocketOptions::new().max_handshakes_per_second(5));
        let admitted: Vec<_> = (0..10).map(|_| gate.admit(None)).collect();
        assert_eq!(admitted.iter().filter(|admitted| admitted.is_ok()).count(), 5);
        assert_eq!(admitted[9].as_ref().unwrap_err(), &Refused::Pace);
        assert_eq!(gate.open(), 5);
    }
}
