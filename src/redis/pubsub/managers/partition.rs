//! `Partition`: a fixed share of the Redis channels of sharded pub/sub in a cluster.
//!
//! A subscription is served by the master of the slot of its Redis channel. The Redis channels are divided into
//! partitions, each in one slot, so that a process watches as many slots as there are partitions. The number of
//! partitions and their slots are part of the format: processes that differ in them lose messages.

use xxhash_rust::xxh3::xxh3_64;

use crate::redis::node::cluster::Slot;

/// A partition. Its slot is in the middle of an equal share of all slots, so that masters with equal shares have equal
/// numbers of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Partition(usize);

impl Partition {
    pub(crate) const COUNT: usize = 128;

    /// The partition of the Redis channel `topic`, which has no tag.
    pub(crate) fn of(topic: &str) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
        let index = (xxh3_64(topic.as_bytes()) % Self::COUNT as u64) as usize;
        Self(index)
    }

    /// The partition with this index, which is below [`COUNT`](Self::COUNT).
    pub(crate) fn at(index: usize) -> Self {
        debug_assert!(index < Self::COUNT, "there is no partition {index}");
        Self(index)
    }

    /// The partition in whose share of the slots `slot` is.
    fn of_slot(slot: Slot) -> Self {
        Self(slot.index() * Self::COUNT / Slot::COUNT)
    }

    /// The partition of the Redis channel `tagged`, which begins with the tag of one.
    pub(crate) fn of_tagged(tagged: &str) -> Self {
        Self::of_slot(Slot::of(tagged))
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }

    /// The slot of its Redis channels.
    pub(crate) fn slot(self) -> Slot {
        Slot::of(TAGS[self.0])
    }

    /// The Redis channel in this partition that stands for `topic`.
    pub(crate) fn tagged(self, topic: &str) -> String {
        format!("{{{}}}{topic}", TAGS[self.0])
    }

    /// Whether `tagged` is a Redis channel in this partition.
    pub(crate) fn has(self, tagged: &str) -> bool {
        tagged
            .strip_prefix('{')
            .and_then(|rest| rest.strip_prefix(TAGS[self.0]))
            .is_some_and(|rest| rest.starts_with('}'))
    }
}

/// The topic of a Redis channel in a partition.
pub(crate) fn untagged(tagged: &str) -> Option<&str> {
    Some(tagged.strip_prefix('{')?.split_once('}')?.1)
}

/// A text in the slot of each partition: the smallest number in the slot `128 * index + 64`.
const TAGS: [&str; Partition::COUNT] = [
    "11423", "41742", "10527", "12258", "16159", "7806", "40331", "6902", "26878", "1696", "49436", "19757", "4493",
    "29498", "5597", "49141", "46382", "530", "15698", "12695", "16594", "11599", "17490", "9458", "3524", "4529",
    "2420", "41961", "68375", "3053", "13808", "2157", "13718", "7935", "40202", "6831", "11510", "41671", "10414",
    "17419", "18217", "48176", "19313", "49072", "15988", "12985", "39199", "13881", "174", "22469", "21212", "56683",
    "8118", "403", "26768", "1986", "68246", "3160", "5069", "2064", "3417", "1368", "42", "41852", "29389", "4382",
    "49650", "975", "1187", "48223", "19046", "8919", "2865", "5868", "3961", "40420", "41053", "11332", "12549",
    "10236", "3742", "68464", "2646", "69560", "4238", "3235", "44902", "2331", "11288", "756", "9349", "17381", "221",
    "39998", "12184", "15189", "18071", "23928", "19175", "39688", "42882", "18506", "43986", "846", "41160", "11201",
    "17308", "10305", "2956", "13009", "3852", "40513", "1479", "3306", "44831", "2202", "3671", "68557", "2775",
    "5778", "312", "8609", "21074", "26079", "22378", "665", "48844", "21503",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_is_in_the_middle_of_its_share_of_the_slots() {
        let share = Slot::COUNT / Partition::COUNT;
        for partition in Partition::all() {
            assert_eq!(partition.slot().index(), partition.index() * share + share / 2);
            assert_eq!(TAGS[partition.index()], partition.slot().tag());
            assert_eq!(Partition::of_slot(partition.slot()), partition);
            assert_eq!(Partition::of_tagged(&partition.tagged("send.p{x}!")), partition);
        }
    }

    #[test]
    fn topics_are_in_the_same_partitions_in_every_version() {
        for (topic, partition) in GOLDEN {
            assert_eq!(Partition::of(topic).index(), partition, "{topic}");
        }
    }

    /// Partitions that running deployments rely on, made with xxhash of Python.
    const GOLDEN: [(&str, usize); 3] = [("http.request", 118), ("send.p!", 49), ("asgi__group__chat", 127)];

    #[test]
    fn topics_are_spread_evenly() {
        let mut counts = [0; Partition::COUNT];
        for number in 0..128_000 {
            counts[Partition::of(&format!("send.{number}!")).index()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_redis_channel_is_read_without_its_tag() {
        let tagged = Partition::at(7).tagged("send.p!");
        assert_eq!(untagged(&tagged), Some("send.p!"));
        assert!(Partition::at(7).has(&tagged) && !Partition::at(8).has(&tagged));
        for other in ["send.p!", "{1", "1}a"] {
            assert_eq!(untagged(other), None);
        }
    }
}
