//! One suite for every channel layer. A layer keeps each guarantee of the trait, or lists it in `LACKS`.

mod backend;
mod cancellation;
mod capacity;
mod closing;
mod content;
mod expiry;
mod flushing;
mod groups;
mod guarantees;
mod load;
mod loss;
mod membership;
mod names;
mod order;
mod readers;
mod sending;
mod statistics;
mod tools;

use backend::{
    AsgiRedis, ChannelsRedis, Fallback, FallbackAlone, HybridMemory, HybridRedis, Kind, Memory, MemoryThreaded, PubSub,
    PubSubAlone, PubSubCluster, PubSubClusterSharded, PubSubOnSeveral, PubSubSharded, Redis, RedisCluster,
    RedisEncrypted,
};

/// Generates a module for each backend, with the tests of the guarantees that are listed for it and the tests that
/// every backend has. A guarantee that a backend lacks has no tests there, and one that it keeps cannot be left out:
/// `has_the_tests_of_what_it_promises` compares the list with the backend.
macro_rules! conformance {
    ($($backend:ident: $type:ty, $($promise:ident)*;)+) => {
        $(mod $backend {
            use super::*;

            tests_of!(every: $type);
            $(tests_of!($promise: $type);)*

            #[test]
            fn has_the_tests_of_what_it_promises() {
                Kind::of::<$type>().has_tests_of(&[$(stringify!($promise)),*]);
            }
        })+
    };
}

/// Generates a test of each function.
macro_rules! tests {
    ($type:ty: $($theme:ident::$test:ident,)+) => {
        $(#[test]
        fn $test() {
            let kind = Kind::of::<$type>();
            kind.run(stringify!($test), $theme::$test(&kind));
        })+
    };
}

/// The tests of one guarantee, or those of every layer.
macro_rules! tests_of {
    (every: $type:ty) => {
        tests! { $type:
            cancellation::a_change_of_a_group_is_made_unless_it_is_dropped,
            cancellation::a_dropped_requeue_arrives_once_or_not_at_all,
            cancellation::a_dropped_group_send_arrives_once_or_not_at_all,
            cancellation::a_dropped_group_send_many_arrives_once_or_not_at_all,
            cancellation::a_dropped_query_changes_nothing,
            cancellation::a_dropped_reader_leaves_its_turn_to_the_next,
            cancellation::a_dropped_receive_loses_nothing,
            cancellation::a_dropped_receiver_loses_nothing,
            cancellation::a_dropped_recv_loses_nothing,
            cancellation::a_dropped_recv_many_loses_nothing,
            cancellation::a_dropped_send_arrives_once_or_not_at_all,
            cancellation::a_dropped_send_many_arrives_once_or_not_at_all,
            cancellation::a_dropped_try_receive_loses_nothing,
            cancellation::readers_that_come_and_go_lose_nothing,
            closing::dropping_the_layer_ends_its_receivers,
            closing::a_dropped_close_goes_on,
            closing::a_dropped_close_of_a_receiver_goes_on,
            closing::closing_a_receiver_puts_back_in_order,
            closing::a_group_send_during_a_close_reaches_all_members_or_fails_for_all,
            closing::calls_after_a_close_return_closed,
            closing::a_close_ends_waiting_calls_with_closed,
            content::a_megabyte_arrives_unchanged,
            content::empty_and_nested_values_arrive_unchanged,
            content::every_float_arrives_unchanged,
            content::every_integer_arrives_unchanged,
            content::text_and_bytes_keep_their_types,
            content::a_message_over_the_size_limit_is_refused,
            content::a_message_with_the_reserved_key_is_refused,
            content::a_sent_message_does_not_change_with_the_original,
            expiry::a_group_message_expires,
            expiry::a_message_expires,
            expiry::a_message_that_a_receiver_holds_expires,
            expiry::a_reader_that_comes_late_gets_no_expired_message,
            expiry::each_message_of_a_busy_channel_expires_on_its_own,
            expiry::putting_back_keeps_the_expiry,
            groups::a_group_may_have_members_of_every_kind,
            groups::group_send_many_reaches_each_group_in_order,
            groups::group_channels_lists_the_members,
            groups::a_group_send_reaches_every_member,
            groups::a_group_send_reaches_every_process_local_member,
            groups::a_group_send_reaches_members_in_many_processes,
            groups::a_group_send_without_members_succeeds,
            groups::the_rest_of_a_group_message_goes_to_the_next_reader,
            guarantees::the_guarantees_are_those_of_the_page,
            load::a_busy_channel_does_not_starve_a_quiet_one,
            load::a_busy_process_local_channel_does_not_starve_a_normal_one,
            load::a_receiver_of_a_busy_channel_does_not_starve_a_quiet_one,
            load::every_operation_reaches_its_reader_whatever_the_name,
            load::many_writers_and_readers_lose_and_duplicate_nothing,
            load::waiting_readers_are_all_served,
            membership::a_change_after_many_group_sends_applies_to_the_next,
            membership::a_member_added_after_the_send_does_not_get_it,
            membership::a_member_added_after_the_send_does_not_get_it_when_all_have_expired,
            membership::a_member_added_before_the_send_gets_it,
            membership::a_member_discarded_after_the_send_still_gets_it,
            membership::a_member_discarded_before_the_send_does_not_get_it,
            membership::a_member_that_expires_after_the_send_still_gets_it,
            membership::adding_a_member_again_renews_its_membership,
            membership::a_member_added_twice_gets_each_message_once,
            membership::a_membership_ends_after_the_group_expiry,
            membership::a_membership_ends_earlier_if_the_caller_says_so,
            membership::group_sends_follow_every_change_of_members,
            names::the_longest_names_are_accepted,
            names::new_channel_completes_its_pattern_to_a_unique_name,
            names::invalid_group_names_are_refused,
            names::invalid_names_to_receive_from_are_refused,
            names::invalid_names_to_send_to_are_refused,
            names::invalid_patterns_are_refused,
            names::receiving_from_no_channel_is_refused,
            order::the_order_holds_on_a_new_channel,
            readers::a_limit_of_zero_counts_as_one,
            readers::a_receiver_is_a_stream,
            readers::a_receiver_reads_nothing_before_it_is_polled,
            readers::a_receiver_reads_several_channels,
            readers::a_dropped_receiver_puts_its_messages_back,
            readers::recv_many_takes_what_is_there_up_to_the_limit,
            sending::a_message_arrives_only_on_its_channel,
            sending::a_delivery_has_the_full_name_of_its_channel,
            sending::a_message_reaches_a_reader_in_another_process,
            sending::a_message_reaches_a_waiting_reader,
            sending::send_many_reaches_every_channel,
            sending::try_receive_does_not_wait,
            sending::try_receive_finds_messages_beside_a_waiting_reader,
            statistics::statistics_report_the_age_of_the_oldest_message,
        }
    };
    (Capacity: $type:ty) => {
        tests! { $type:
            capacity::a_full_member_misses_a_group_send_and_the_others_get_it,
            capacity::a_received_message_makes_room,
            capacity::expired_messages_do_not_fill_a_channel,
            capacity::requeued_messages_need_no_room,
            capacity::each_message_of_send_many_has_its_own_result,
            capacity::the_local_parts_of_a_process_share_its_capacity,
            capacity::a_send_above_the_capacity_is_refused,
            capacity::the_first_matching_rule_decides_the_capacity,
            statistics::statistics_count_messages_and_refusals,
        }
    };
    (Drain: $type:ty) => {
        tests! { $type:
            closing::closing_finishes_sends_under_way,
            closing::closing_leaves_unread_messages_to_others,
        }
    };
    (Flush: $type:ty) => {
        tests! { $type:
            cancellation::a_dropped_flush_leaves_a_layer_that_works,
            flushing::a_flush_deletes_groups,
            flushing::a_flush_deletes_messages,
            flushing::a_flush_deletes_statistics,
            flushing::a_flush_clears_cached_members,
        }
    };
    (NoSilentLoss: $type:ty) => {
        tests! { $type:
            loss::a_group_message_for_a_full_member_is_counted,
            loss::expired_messages_are_counted,
        }
    };
    (OnePlacePerProcess: $type:ty) => {
        tests! { $type:
            capacity::a_group_send_takes_one_place_for_all_members_of_a_process,
        }
    };
    (Order: $type:ty) => {
        tests! { $type:
            order::the_order_holds_from_writer_to_reader,
            order::the_order_holds_through_readers_of_every_kind,
        }
    };
}

conformance! {
    memory: Memory, Capacity Flush NoSilentLoss OnePlacePerProcess Order;
    memory_threaded: MemoryThreaded, Capacity Flush NoSilentLoss OnePlacePerProcess Order;
    redis: Redis<1>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    redis_sharded: Redis<3>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    redis_cluster: RedisCluster<1>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    redis_cluster_spread: RedisCluster<4>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    redis_encrypted: RedisEncrypted, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    hybrid: HybridMemory<false>, Capacity Flush NoSilentLoss OnePlacePerProcess Order;
    hybrid_cluster: HybridMemory<true>, Capacity Flush NoSilentLoss OnePlacePerProcess Order;
    hybrid_redis: HybridRedis, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    fallback: Fallback<false>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    fallback_cluster: Fallback<true>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    fallback_alone: FallbackAlone, Capacity NoSilentLoss OnePlacePerProcess Order;
    pubsub: PubSub, Flush Order;
    pubsub_sharded: PubSubSharded, Flush Order;
    pubsub_on_several: PubSubOnSeveral, Flush;
    pubsub_alone: PubSubAlone, Flush Order;
    pubsub_cluster: PubSubCluster, Flush Order;
    pubsub_cluster_sharded: PubSubClusterSharded, Flush;
    channels_redis: ChannelsRedis<1>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    channels_redis_sharded: ChannelsRedis<3>, Capacity Drain Flush NoSilentLoss OnePlacePerProcess Order;
    asgi_redis: AsgiRedis<1>, Capacity Drain Flush NoSilentLoss Order;
    asgi_redis_sharded: AsgiRedis<3>, Capacity Drain Flush NoSilentLoss Order;
}
