//! Names to shards, by rendezvous hashing.
//!
//! Every name goes to the shard whose hash with it is highest, so that adding or removing one host moves that host's
//! share of the names and no other.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The shards of a layer.
#[derive(Clone, Debug)]
pub enum Ring {
    /// Each known by a hash of its host's identity.
    Rendezvous(Vec<u64>),
    /// So many, placed as in Python's layers.
    Crc(usize),
}

impl Ring {
    /// A ring over hosts with these identities, which must differ; there is at least one.
    pub(crate) fn new<'i>(identities: impl IntoIterator<Item = &'i str>) -> Self {
        Self::Rendezvous(identities.into_iter().map(|identity| xxh3_64(identity.as_bytes())).collect())
    }

    /// The ring of `asgi_redis` and `channels_redis` over so many hosts, of which their order alone is known.
    pub(crate) fn crc(hosts: usize) -> Self {
        Self::Crc(hosts)
    }

    /// The shard of a group, or of a `!` or `?` channel by the non-local part of its name. Nothing else may be given
    /// here: a reader and a writer that hash different parts of a name miss each other.
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

/// The part of a normal channel's `capacity` that lies on `shard` of `shards`; the parts add up to the whole.
pub(crate) fn share_of_capacity(capacity: usize, shard: usize, shards: usize) -> usize {
    capacity / shards + usize::from(shard < capacity % shards)
}

/// The shard of `name` among `shards` in Python's layers, `asgi_redis` and `channels_redis`: by CRC-32, cut to 12 bits.
/// The division is one of floats, whose rounding decides at the borders.
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
        let turned = ["c", "a", "b"];
        let (ring, other) = (Ring::new(hosts), Ring::new(turned));
        for name in names() {
            assert_eq!(hosts[ring.shard_of(&name)], turned[other.shard_of(&name)]);
        }
    }

    #[test]
    fn places_stay_the_same_in_every_version() {
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
