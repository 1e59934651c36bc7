//! `Ring`: maps names to shards by rendezvous hashing.
//!
//! A name goes to the shard that has the highest hash with it. So adding or removing a host moves only that host's
//! share of the names.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The shards of a layer.
#[derive(Clone, Debug)]
pub enum Ring {
    /// Rendezvous hashing. Holds a hash of the identity of each host.
    Rendezvous(Vec<u64>),
    /// The placement of Python's layers over this many shards.
    Crc(usize),
}

impl Ring {
    /// A ring over hosts with these identities. There has to be one at least, and they have to differ.
    pub(crate) fn new<'i>(identities: impl IntoIterator<Item = &'i str>) -> Self {
        Self::Rendezvous(identities.into_iter().map(|identity| xxh3_64(identity.as_bytes())).collect())
    }

    /// The ring of `asgi_redis` and `channels_redis` over this many hosts. It depends only on the order of the hosts.
    pub(crate) fn crc(hosts: usize) -> Self {
        Self::Crc(hosts)
    }

    /// The shard of a group, or of a `!` or `?` channel by the non-local part of its name. `name` has to be one of
    /// these, because a reader and a writer that hash different parts of a name use different shards.
    pub(crate) fn shard_of(&self, name: &str) -> usize {
        let score = |seed: &u64| xxh3_64_with_seed(name.as_bytes(), *seed);
        match self {
            Self::Rendezvous(seeds) => {
                let highest = seeds.iter().enumerate().max_by_key(|(_, seed)| score(seed));
                highest.map_or(0, |(shard, _)| shard)
            }
            Self::Crc(hosts) => crc_shard(name, *hosts),
        }
    }
}

/// The part of a normal channel's `capacity` for `shard`, one of `shards`. The parts add up to the whole.
pub(crate) fn share_of_capacity(capacity: usize, shard: usize, shards: usize) -> usize {
    capacity / shards + usize::from(shard < capacity % shards)
}

/// The shard of `name` among `shards` in Python's layers, `asgi_redis` and `channels_redis`: by CRC-32, cut to 12 bits.
/// Python divides floats, and their rounding decides at the borders.
pub(crate) fn crc_shard(name: &str, shards: usize) -> usize {
    let Ok(count @ 2..) = u16::try_from(shards) else { return 0 };
    let hash = f64::from(crc32fast::hash(name.as_bytes()) & 0xFFF);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to the number of shards")]
    let shard = (hash / (4096.0 / f64::from(count))) as usize;
    shard.min(shards - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> impl Iterator<Item = String> {
        (0..3000).map(|n| format!("websocket.send.process{n}!"))
    }

    #[test]
    fn every_shard_gets_about_its_share() {
        let ring = Ring::new(["a", "b", "c"]);
        let mut counts = [0; 3];
        for name in names() {
            counts[ring.shard_of(&name)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn adding_a_host_moves_names_only_to_it() {
        let (before, after) = (Ring::new(["a", "b", "c"]), Ring::new(["a", "b", "c", "d"]));
        for name in names() {
            let shard = after.shard_of(&name);
            assert!(shard == 3 || shard == before.shard_of(&name), "{name}");
        }
    }

    #[test]
    fn the_order_of_hosts_does_not_matter() {
        let hosts = ["a", "b", "c"];
        let rotated = ["c", "a", "b"];
        let (ring, other) = (Ring::new(hosts), Ring::new(rotated));
        for name in names() {
            assert_eq!(hosts[ring.shard_of(&name)], rotated[other.shard_of(&name)]);
        }
    }

    #[test]
    fn placements_do_not_change_between_versions() {
        let ring = Ring::new(["127.0.0.1:6379/0", "127.0.0.1:6380/0", "127.0.0.1:6381/0"]);
        let placed: Vec<_> =
            ["chat", "http.request.body?x", "websocket.send.a!"].map(|name| ring.shard_of(name)).into();
        assert_eq!(placed, GOLDEN);
    }

    /// Placements that running deployments rely on.
    const GOLDEN: [usize; 3] = [0, 0, 1];

    #[test]
    fn shares_of_a_capacity_add_up() {
        for capacity in [1, 2, 3, 100, 101] {
            let shares: Vec<_> = (0..3).map(|shard| share_of_capacity(capacity, shard, 3)).collect();
            assert_eq!(shares.iter().sum::<usize>(), capacity, "{shares:?}");
        }
    }

    /// Made by running `_consistent_hash` of channels_redis 4.3.0.
    #[test]
    fn names_have_the_shards_of_python() {
        const COUNTS: [usize; 9] = [1, 2, 3, 4, 5, 7, 10, 16, 100];
        for (name, shards) in [
            ("key_one", [0, 1, 2, 2, 3, 4, 6, 11, 69]),
            ("key_two", [0, 0, 1, 1, 2, 3, 4, 7, 48]),
            ("test-group", [0, 1, 2, 3, 4, 6, 8, 14, 87]),
            ("http.request", [0, 1, 2, 2, 3, 4, 7, 11, 70]),
            ("specific.0123456789abcdef0123456789abcdef!", [0, 0, 1, 1, 1, 2, 3, 5, 34]),
            ("asgi__group__test-group", [0, 0, 1, 1, 2, 3, 4, 7, 45]),
            ("asgispecific.0123456789abcdef0123456789abcdef", [0, 0, 1, 1, 1, 2, 3, 5, 34]),
            ("", [0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("a", [0, 1, 2, 3, 4, 6, 8, 14, 89]),
        ] {
            assert_eq!(COUNTS.map(|count| crc_shard(name, count)), shards, "{name}");
        }
    }
}
