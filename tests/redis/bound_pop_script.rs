//! `bound_pop.lua` and the pop that follows it, on a real server.

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Value};

use super::tools::entries;
use crate::support::{DEADLINE, random_prefix, shared_servers, within};

const SOURCE: &str = include_str!("../../src/redis/native/scripts/bound_pop.lua");
/// The size, in bytes, up to which a list is small, and the size after which the script takes no further entry.
const SMALL: usize = 20_000;
const BUDGET: usize = 10_000;

struct List {
    connection: MultiplexedConnection,
    key: String,
}

/// The entries that a transaction has taken.
#[derive(Debug, PartialEq)]
enum Taken {
    Nothing,
    ByScript(Vec<Vec<u8>>),
    ByPop(Vec<Vec<u8>>),
}

impl List {
    async fn of(sizes: impl IntoIterator<Item = usize>) -> (Self, Vec<Vec<u8>>) {
        let (mut connection, key) = (shared_servers()[0].connection().await, random_prefix());
        let all: Vec<_> = sizes.into_iter().enumerate().map(|(n, size)| entry(n, size)).collect();
        if !all.is_empty() {
            let () = connection.rpush(&key, &all).await.unwrap();
        }
        (Self { connection, key }, all)
    }

    fn gate(&self) -> String {
        format!("{}:gate", self.key)
    }

    async fn take(&mut self, count: usize) -> Taken {
        let mut commands = redis::pipe();
        commands.atomic().cmd("EVAL").arg(SOURCE).arg(2).arg(&self.key).arg(self.gate());
        commands.arg(count).arg(SMALL).arg(BUDGET);
        commands.cmd("LMPOP").arg(2).arg(self.gate()).arg(&self.key).arg("LEFT").arg("COUNT").arg(count);
        let answers = commands.query_async::<(Value, Value)>(&mut self.connection);
        let list = |answer| redis::from_redis_value::<(String, Vec<Vec<u8>>)>(answer).unwrap();
        let taken = match within(DEADLINE, "the transaction", answers).await.unwrap() {
            (Value::Nil, Value::Nil) => Taken::Nothing,
            (Value::Nil, popped) => {
                let (key, entries) = list(popped);
                assert_eq!(key, self.key);
                Taken::ByPop(entries)
            }
            (script, gate) => {
                assert_eq!(list(gate), (self.gate(), vec![vec![]]));
                let (key, entries) = list(script);
                assert_eq!(key, self.key);
                Taken::ByScript(entries)
            }
        };
        let is_shut: bool = self.connection.exists(self.gate()).await.unwrap();
        assert!(!is_shut, "the gate outlives the transaction");
        taken
    }

    async fn rest(&mut self) -> Vec<Vec<u8>> {
        entries(&mut self.connection, &self.key).await
    }
}

fn entry(n: usize, size: usize) -> Vec<u8> {
    let mut entry = vec![b'x'; size];
    entry[..2].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
    entry
}

#[tokio::test]
async fn a_small_list_is_left_to_the_pop() {
    let (mut list, all) = List::of([100; 80]).await;
    assert_eq!(list.take(50).await, Taken::ByPop(all[..50].to_vec()));
    assert_eq!(list.take(50).await, Taken::ByPop(all[50..].to_vec()));
    assert_eq!(list.take(50).await, Taken::Nothing);
}

#[tokio::test]
async fn entries_of_a_large_list_are_taken_until_they_reach_the_budget() {
    let (mut list, all) = List::of([3000; 20]).await;
    assert_eq!(list.take(100).await, Taken::ByScript(all[..4].to_vec()));
    assert_eq!(list.take(3).await, Taken::ByScript(all[4..7].to_vec()));
    assert_eq!(list.rest().await, all[7..]);
}

#[tokio::test]
async fn small_entries_do_not_make_a_read_take_the_large_ones_behind_them() {
    let (mut list, all) = List::of([100; 10].into_iter().chain([1 << 20; 5])).await;
    assert_eq!(list.take(256).await, Taken::ByScript(all[..11].to_vec()));
    assert_eq!(list.take(256).await, Taken::ByScript(all[11..12].to_vec()));
    assert_eq!(list.rest().await, all[12..]);
}

#[tokio::test]
async fn a_list_of_many_small_entries_is_large() {
    let (mut list, all) = List::of(vec![10; 5000]).await;
    assert_eq!(list.take(256).await, Taken::ByScript(all[..256].to_vec()));
}

#[tokio::test]
async fn a_key_of_another_type_is_unchanged() {
    let (mut list, _) = List::of([]).await;
    let () = list.connection.set(&list.key, "text").await.unwrap();
    let mut commands = redis::pipe();
    commands.atomic().cmd("EVAL").arg(SOURCE).arg(2).arg(&list.key).arg(list.gate()).arg(9).arg(SMALL).arg(BUDGET);
    commands.cmd("LMPOP").arg(2).arg(list.gate()).arg(&list.key).arg("LEFT").arg("COUNT").arg(9);
    let error = commands.query_async::<Value>(&mut list.connection).await.expect_err("the key is not a list");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    assert_eq!(list.connection.get::<_, String>(&list.key).await.unwrap(), "text");
}
